//! The events of a drive and its registrations. A drive's log consists of them.

mod data;

pub use self::data::{
    DriveCancelled, DriveClosed, DriveCreated, DriveDigested, DriveMessaged, DriveRefused, DriveReminded,
    DriveReopened, DriveUpdated, Empty, RegistrationAnswersChanged, RegistrationCheckInUndone,
    RegistrationCheckedIn, RegistrationConfirmed, RegistrationEnded, RegistrationMoved, RegistrationPromoted,
    RegistrationRefused, RegistrationWaitlisted,
};

crate::events! {
    /// An event of a drive's log.
    pub enum Event of Drive;
    /// A drive was created.
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
    /// A drive was cancelled.
    "muster.drive.cancelled" => DriveCancelled(DriveCancelled),
    /// Registration, a drive or a slot is about to begin.
    "muster.drive.reminded" => DriveReminded(DriveReminded),
    /// The daily digest of a drive.
    "muster.drive.digested" => DriveDigested(DriveDigested),
    /// An organiser sent a message to registered members.
    "muster.drive.messaged" => DriveMessaged(DriveMessaged),
    /// A member got a place.
    "muster.registration.confirmed" => RegistrationConfirmed(RegistrationConfirmed) [member facts],
    /// A member got on the waiting list.
    "muster.registration.waitlisted" => RegistrationWaitlisted(RegistrationWaitlisted) [member facts],
    /// A waiting member got a place: the head of the waiting list, or a member whom an organiser
    /// chose.
    "muster.registration.promoted" => RegistrationPromoted(RegistrationPromoted) [member facts],
    /// An organiser moved a member within the waiting list.
    "muster.registration.moved" => RegistrationMoved(RegistrationMoved) [member facts],
    /// A member changed the answers to the drive's questions.
    "muster.registration.answers_changed" => RegistrationAnswersChanged(RegistrationAnswersChanged) [member facts],
    /// A member withdrew a registration.
    "muster.registration.withdrawn" => RegistrationWithdrawn(RegistrationEnded) [member facts],
    /// An organiser removed a registration.
    "muster.registration.removed" => RegistrationRemoved(RegistrationEnded) [member facts],
    /// A member who holds a place was checked in.
    "muster.registration.checked_in" => RegistrationCheckedIn(RegistrationCheckedIn) [member facts],
    /// A check-in was undone.
    "muster.registration.check_in_undone" => RegistrationCheckInUndone(RegistrationCheckInUndone) [member],
    /// A registration, or a change to one, was refused.
    "muster.registration.refused" => RegistrationRefused(RegistrationRefused) [perhaps_member facts],
    /// A change to the drive itself was refused.
    "muster.drive.refused" => DriveRefused(DriveRefused),
}
