//! One suite for all three databases.
