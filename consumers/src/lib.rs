//! The consumers take commands from their queues, decide them, and publish the events.
//!
//! [`runtime`] is the loop that all queues share. Each queue has a handler ([`drives`],
//! [`members`], [`eligibility`], [`upkeep`]). A handler reads once for the whole batch, decides by
//! the pure rules of `domain`, and writes many rows per statement.
//!
//! [`follow`] is the loop of the followers of logs ([`inbox`], [`webhooks`]).
//!
//! [`parts`] lists the processes.

pub mod balance;
pub mod batch;
mod concurrency;
pub mod drives;
pub mod eligibility;
pub mod follow;
pub mod inbox;
mod logged;
pub mod mail;
pub mod members;
mod messages;
mod observed;
pub mod runtime;
pub mod service;
pub mod upkeep;
pub mod webhooks;

use std::process::ExitCode;

use process::part::{Environment, Part};
use shared::bus::cloud_event::batch::Form;
use shared::config::{
    EventsArguments, FilesArguments, Outlet, OutletArguments, PublicArguments, SenderArguments,
};
use shared::webhook::address::WebhookArguments;

pub use batch::{Cx, Decided, Handler};

use crate::service::consumer;

/// The processes of this crate. Each has a binary of its name, and is a part of the all-in-one
/// process.
#[must_use]
pub fn parts() -> Vec<Part> {
    vec![
        consumer("drives-consumer", "Decides the commands about drives", |_, events: EventsArguments| {
            Ok((drives::Drives::default(), events.events))
        }),
        consumer(
            "members-consumer",
            "Decides the commands about members",
            |data_dir, files: FilesArguments| {
                Ok((members::Members { files: files.open(data_dir)? }, Form::Each))
            },
        ),
        consumer("eligibility-consumer", "Decides eligibility checks", |_, ()| {
            Ok((eligibility::Eligibility::default(), Form::Each))
        }),
        consumer(
            "upkeep-consumer",
            "Deletes data that is no longer needed",
            |data_dir, files: FilesArguments| {
                Ok((upkeep::Upkeep { files: files.open(data_dir)? }, Form::Each))
            },
        ),
        Part::new(
            "inbox-follower",
            "Follows the drives' logs, fills the members' inboxes, and makes mails",
            None,
            |data_dir, outlet: OutletArguments| {
                let inbox = inbox::Inbox { mails: outlet.outlet(data_dir)? != Outlet::Nowhere };
                Ok(move |environment| service::follow(inbox, environment))
            },
        ),
        Part::new(
            "webhooks-follower",
            "Follows the drives' logs, and sends their entries to webhooks",
            None,
            |data_dir, (webhooks, outlet): (WebhookArguments, OutletArguments)| {
                let mails = outlet.outlet(data_dir)? != Outlet::Nowhere;
                let post = webhooks::post::Post::new(webhooks.allowed());
                Ok(move |environment| webhooks::run(post, mails, environment))
            },
        ),
        Part::new(
            "mail-sender",
            "Sends mails",
            None,
            |data_dir, ((outlet, sender), public): ((OutletArguments, SenderArguments), PublicArguments)| {
                let mut post = mail::open(data_dir, &outlet, &sender, &public)?;
                Ok(move |environment: Environment| {
                    if let (Some(post), Some(url), None) = (&mut post, &environment.url, &public.public_url) {
                        post.sender.public_url.clone_from(url);
                    }
                    mail::run(post, environment)
                })
            },
        ),
    ]
}

/// The main function of the binary of this name.
#[must_use]
pub fn main(name: &str) -> ExitCode {
    let part = parts().into_iter().find(|part| part.name == name);
    part.expect("each binary is named as a part").main()
}
