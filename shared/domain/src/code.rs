//! Codes of refusals. They are stable: clients and their translations rely on them.

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal;)*) => {
        crate::words! {
            /// Why a command was refused. Codes are stable: programs and translations rely on them.
            #[schemars(rename = "RefusalCode")]
            pub enum Code {
                $(#[doc = $title] $name = $code,)*
            }
        }

        impl Code {
            /// The title. Every refusal with this code has the same one.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    AlreadyRegistered = "already-registered", "The member is already registered for this drive";
    AnswersInvalid = "answers-invalid", "The answers do not fit the drive's questions";
    AttributeLocked = "attribute-locked", "An organiser has set this attribute";
    CapacityBelowConfirmed = "capacity-below-confirmed", "More places are confirmed than the new capacity has";
    DriveCancelled = "drive-cancelled", "The drive is cancelled";
    DriveClosed = "drive-closed", "Registration is closed";
    DriveFull = "drive-full", "All places and the waiting list are taken";
    DriveNotClosed = "drive-not-closed", "The drive is not closed";
    DriveNotFound = "drive-not-found", "There is no such drive";
    DriveNotOpen = "drive-not-open", "Registration has not opened yet";
    DriveNotPublished = "drive-not-published", "The drive is not published yet";
    DrivePublished = "drive-already-published", "The drive is published already";
    InvalidDrive = "invalid-drive", "The drive has errors";
    InvalidFile = "invalid-file", "The file cannot be imported";
    InvalidProfile = "invalid-profile", "The profile has errors";
    InvalidRule = "invalid-rule", "A rule cannot be used";
    MemberNotFound = "member-not-found", "There is no such member";
    NotConfirmed = "not-confirmed", "The registration holds no place";
    NotEligible = "not-eligible", "The member does not meet the drive's rules";
    NotRegistered = "not-registered", "The member is not registered for this drive";
    NotWaiting = "not-waiting", "The registration is not on the waiting list";
    RegistrationNotFound = "registration-not-found", "There is no such registration";
    SlotInUse = "slot-in-use", "The slot still has registrations";
    SlotNotFound = "slot-not-found", "The drive has no such slot";
    SlotRequired = "slot-required", "The drive has slots; one must be chosen";
    WindowOver = "window-over", "The drive's registration window is over";
}

impl Code {
    /// Whether this means "not yet": the drive is in an earlier status, and the same request may
    /// succeed later.
    ///
    /// Such a refusal does not bind its idempotency key, so a repetition is a new attempt. Any
    /// other refusal binds its key. It holds until someone changes data, and a duplicate request
    /// must not take effect then.
    #[must_use]
    pub fn time_can_change(self) -> bool {
        matches!(self, Self::DriveNotOpen | Self::DriveNotPublished)
    }
}
