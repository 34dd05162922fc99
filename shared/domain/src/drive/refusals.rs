//! Why each command may be refused: what its clients have to be ready for. Where a command is decided, a debug build checks
//! that its list has the reason.

#![allow(clippy::enum_glob_use, reason = "lists of names, and nothing else")]

use crate::refusal::Code::{self, *};

pub(super) const CREATE: &[Code] = &[InvalidDrive, InvalidRule];
pub(super) const UPDATE: &[Code] = &[
    CapacityBelowConfirmed,
    DriveCancelled,
    DriveClosed,
    DriveNotFound,
    InvalidDrive,
    InvalidRule,
    SlotInUse,
];
pub(super) const PUBLISH: &[Code] = &[DriveCancelled, DriveNotFound, DrivePublished, WindowOver];
pub(super) const CLOSE: &[Code] = &[DriveCancelled, DriveClosed, DriveNotFound, DriveNotPublished];
pub(super) const REOPEN: &[Code] = &[DriveCancelled, DriveNotClosed, DriveNotFound, InvalidDrive, WindowOver];
pub(super) const CANCEL: &[Code] = &[DriveCancelled, DriveNotFound];
pub(super) const BY_SCHEDULE: &[Code] = &[DriveNotFound];
pub(super) const MESSAGE: &[Code] = &[DriveNotFound, DriveNotPublished];
pub(super) const REGISTER: &[Code] = &[
    AlreadyRegistered,
    AnswersInvalid,
    DriveCancelled,
    DriveClosed,
    DriveFull,
    DriveNotFound,
    DriveNotOpen,
    MemberNotFound,
    NotEligible,
    SlotNotFound,
    SlotRequired,
];
pub(super) const WITHDRAW: &[Code] = &[DriveCancelled, DriveNotFound, NotRegistered];
pub(super) const ADD: &[Code] = &[
    AlreadyRegistered,
    DriveCancelled,
    DriveFull,
    DriveNotFound,
    DriveNotPublished,
    MemberNotFound,
    SlotNotFound,
    SlotRequired,
];
pub(super) const REMOVE: &[Code] = &[DriveCancelled, DriveNotFound, RegistrationNotFound];
pub(super) const CHANGE_ANSWERS: &[Code] =
    &[AnswersInvalid, DriveCancelled, DriveClosed, DriveNotFound, NotRegistered];
pub(super) const MOVE: &[Code] = &[DriveCancelled, DriveNotFound, NotWaiting, RegistrationNotFound];
pub(super) const CHECK_IN: &[Code] = &[DriveCancelled, DriveNotFound, NotConfirmed, RegistrationNotFound];
