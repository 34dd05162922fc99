//! The events of a drive and its registrations. A drive's log consists of them.

mod data;

pub use self::data::{
    DriveCancelled, DriveClosed, DriveCreated, DriveDigested, DriveMessaged, DriveRefused, DriveReminded,
    DriveReopened, DriveUpdated, Empty, RegistrationAnswersChanged, RegistrationCheckInUndone,
    RegistrationCheckedIn, RegistrationConfirmed, RegistrationEnded, RegistrationMoved, RegistrationPromoted,
    RegistrationRefused, RegistrationWaitlisted,
};

crate::events! {
    /// What was decided on a drive's lane, as its log says it.
    pub enum Event of Drive;
    /// A drive was made.
    "muster.drive.created" => DriveCreated(DriveCreated),
    /// A drive was changed.
    "muster.drive.updated" => DriveUpdated(DriveUpdated),
    /// A drive was announced.
    "muster.drive.published" => DrivePublished(Empty),
    /// Registration opened.
    "muster.drive.opened" => DriveOpened(Empty),
    /// Registration closed.
    "muster.drive.closed" => DriveClosed(DriveClosed),
    /// Registration opened again.
    "muster.drive.reopened" => DriveReopened(DriveReopened),
    /// A drive was called off.
    "muster.drive.cancelled" => DriveCancelled(DriveCancelled),
    /// Something is about to begin.
    "muster.drive.reminded" => DriveReminded(DriveReminded),
    /// How a drive stands, once a day.
    "muster.drive.digested" => DriveDigested(DriveDigested),
    /// An organiser wrote to people who signed up.
    "muster.drive.messaged" => DriveMessaged(DriveMessaged),
    /// Someone got a place.
    "muster.registration.confirmed" => RegistrationConfirmed(RegistrationConfirmed) [member facts],
    /// Someone got on the waiting list.
    "muster.registration.waitlisted" => RegistrationWaitlisted(RegistrationWaitlisted) [member facts],
    /// Somebody who waited got a place: the head of the waiting list, or whom an organiser chose.
    "muster.registration.promoted" => RegistrationPromoted(RegistrationPromoted) [member facts],
    /// An organiser moved somebody within the waiting list.
    "muster.registration.moved" => RegistrationMoved(RegistrationMoved) [member facts],
    /// A member answered the drive's questions anew.
    "muster.registration.answers_changed" => RegistrationAnswersChanged(RegistrationAnswersChanged) [member facts],
    /// A member gave their registration up.
    "muster.registration.withdrawn" => RegistrationWithdrawn(RegistrationEnded) [member facts],
    /// An organiser took a registration away.
    "muster.registration.removed" => RegistrationRemoved(RegistrationEnded) [member facts],
    /// Somebody who holds a place has come.
    "muster.registration.checked_in" => RegistrationCheckedIn(RegistrationCheckedIn) [member facts],
    /// A check-in was taken back.
    "muster.registration.check_in_undone" => RegistrationCheckInUndone(RegistrationCheckInUndone) [member],
    /// Someone did not get in, or a change to a registration was refused.
    "muster.registration.refused" => RegistrationRefused(RegistrationRefused) [perhaps_member facts],
    /// A change to the drive itself was refused.
    "muster.drive.refused" => DriveRefused(DriveRefused),
}
