//! What is stored about a member, and who may change what of it.

use super::import::Person;
use super::{EditMember, MAX_ATTRIBUTES, UpdateProfile};
use crate::attribute::{Attribute, Known, Source, Verified};
use crate::clock::Timestamp;
use crate::refusal::{Code, FieldError, Refusal};

/// What is stored about a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// Their name.
    pub name: String,
    /// Who said the name, if it was not the member. Then the member cannot change it.
    pub name_source: Option<Source>,
    /// Their attributes.
    pub known: Known,
}

/// What an import did to a profile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// Whether the profile changed.
    pub has_changed: bool,
    /// The columns that were left, because an organiser had set their values by hand.
    pub held: Vec<String>,
}

impl Profile {
    /// Applies the profile that a member gave at sign-up. It may be published late, so it does not
    /// replace a name that came before it.
    pub fn begin(&mut self, command: &UpdateProfile) -> Result<(), Refusal> {
        let name = command.name.as_ref().filter(|_| self.name.is_empty());
        self.update(&UpdateProfile { name: name.cloned(), ..command.clone() })
    }

    /// Applies a member's change of their own profile. A member cannot change what an organisation
    /// says of them. Marks decide who may come, so nobody sets their own.
    pub fn update(&mut self, command: &UpdateProfile) -> Result<(), Refusal> {
        let detail = "an organiser has set this; only an organiser changes it";
        // To repeat what the organisation says changes nothing.
        let is_locked = |name: &str, value: Option<&Attribute>| {
            self.known.is_verified(name) && self.known.member(name) != value
        };
        let mut locked: Vec<_> = (command.attributes.iter())
            .filter(|(name, value)| is_locked(name, value.as_ref()))
            .map(|(name, _)| FieldError::new(format!("attributes.{name}"), detail))
            .collect();
        let name = command.name.as_ref().map(|name| name.trim());
        if self.name_source.is_some() && name.is_some_and(|name| name != self.name) {
            locked.push(FieldError::new("name", detail));
        }
        if !locked.is_empty() {
            return Err(Refusal::new(Code::AttributeLocked).with_errors(locked));
        }
        let mut known = self.known.clone();
        known.declared.change(&command.attributes);
        known.drop_what_is_verified();
        bounded("attributes", known.declared.len(), self.known.declared.len())?;
        self.known = known;
        if let Some(name) = name {
            name.clone_into(&mut self.name);
        }
        Ok(())
    }

    /// Applies an organiser's edit. It wins over everything else.
    pub fn edit(&mut self, command: &EditMember, now: Timestamp) -> Result<(), Refusal> {
        let mut verified = self.known.verified.clone();
        let set = command.set.iter().map(|(name, value)| (name, Some(value.clone())));
        let absent = command.absent.iter().map(|name| (name, None));
        for (name, value) in set.chain(absent) {
            verified.insert(name.clone(), Verified { value, source: Source::Organiser, at: now });
        }
        verified.retain(|name, _| !command.release.contains(name));
        bounded("set", verified.len(), self.known.verified.len())?;
        self.known.verified = verified;
        self.known.drop_what_is_verified();
        if let Some(name) = &command.name {
            name.trim().clone_into(&mut self.name);
            self.name_source = Some(Source::Organiser);
        } else if command.release.contains("name") {
            self.name_source = None;
        }
        Ok(())
    }

    /// Applies a row of an import. A filled cell sets a value, an empty one says that the member has
    /// none. Values that an organiser has set by hand stay, unless the import `overrides` them.
    ///
    /// # Errors
    /// In words, if the member would have too many attributes.
    pub fn import(&mut self, row: &Person, now: Timestamp, overrides: bool) -> Result<Imported, String> {
        let is_held = |source: Source| source == Source::Organiser && !overrides;
        let mut verified = self.known.verified.clone();
        let mut imported = Imported::default();
        for (name, value) in &row.attributes {
            let before = verified.get(name);
            let adopts = overrides && before.is_some_and(|before| before.source == Source::Organiser);
            if !adopts && before.is_some_and(|before| before.value == *value) {
                continue;
            }
            if before.is_some_and(|before| is_held(before.source)) {
                imported.held.push(name.clone());
                continue;
            }
            let value = value.clone();
            verified.insert(name.clone(), Verified { value, source: Source::Import, at: now });
        }
        if verified.len() > MAX_ATTRIBUTES.max(self.known.verified.len()) {
            return Err(format!("the member would have more than {MAX_ATTRIBUTES} attributes"));
        }
        imported.has_changed = verified != self.known.verified;
        self.known.verified = verified;
        self.known.drop_what_is_verified();
        if !row.name.is_empty() && row.name == self.name && self.name_source.is_none() {
            self.name_source = Some(Source::Import);
            imported.has_changed = true;
        } else if !row.name.is_empty() && row.name != self.name {
            if self.name_source.is_some_and(is_held) {
                imported.held.push("name".to_owned());
            } else {
                row.name.clone_into(&mut self.name);
                self.name_source = Some(Source::Import);
                imported.has_changed = true;
            }
        }
        Ok(imported)
    }
}

/// Refuses more attributes than there may be. A profile of an older version may have more `before`.
fn bounded(field: &str, attributes: usize, before: usize) -> Result<(), Refusal> {
    if attributes <= MAX_ATTRIBUTES.max(before) {
        return Ok(());
    }
    let detail = format!("a member has at most {MAX_ATTRIBUTES} attributes");
    Err(Refusal::new(Code::InvalidProfile).with_errors(vec![FieldError::new(field, detail)]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock;
    use crate::id::MemberId;

    type Values<'a> = &'a [(&'a str, Option<Attribute>)];

    #[expect(clippy::unnecessary_wraps, reason = "a filled cell")]
    fn number(number: i64) -> Option<Attribute> {
        Some(Attribute::Number(number.into()))
    }

    fn now() -> Timestamp {
        clock::from_ms(1_790_000_000_000)
    }

    fn map(values: Values<'_>) -> BTreeMap<String, Option<Attribute>> {
        values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn update(values: Values<'_>) -> UpdateProfile {
        UpdateProfile { member_id: MemberId::new(), name: None, attributes: map(values) }
    }

    fn named(name: &str) -> UpdateProfile {
        UpdateProfile { name: Some(name.to_owned()), ..update(&[]) }
    }

    fn row(name: &str, values: Values<'_>) -> Person {
        Person { line: 2, email: "ann@x.org".to_owned(), name: name.to_owned(), attributes: map(values) }
    }

    fn edit(set: Values<'_>, absent: &[&str], release: &[&str]) -> EditMember {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        EditMember {
            member_id: MemberId::new(),
            name: None,
            set: map(set).into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            absent: names(absent),
            release: names(release),
        }
    }

    fn import(profile: &mut Profile, row: &Person) -> Imported {
        profile.import(row, now(), false).unwrap()
    }

    #[test]
    fn a_member_cannot_change_what_an_organiser_imported() {
        let mut profile = Profile::default();
        import(&mut profile, &row("Ann", &[("marks", number(58))]));
        let refusal = profile.update(&update(&[("marks", number(99))])).unwrap_err();
        assert_eq!(refusal.code, Code::AttributeLocked);
        assert!(profile.update(&update(&[("marks", None)])).is_err());
        assert_eq!(profile.update(&named("Eve")).unwrap_err().code, Code::AttributeLocked);
        // Repeated, it is no change.
        profile
            .update(&UpdateProfile { name: Some("Ann".into()), ..update(&[("marks", number(58))]) })
            .unwrap();
        assert_eq!(profile.known.member("marks"), number(58).as_ref());
        assert!(profile.known.declared.is_empty());
    }

    #[test]
    fn what_a_member_says_is_another_map() {
        let mut profile = Profile::default();
        profile.update(&update(&[("marks", number(99))])).unwrap();
        assert_eq!(profile.known.member("marks"), None);
        import(&mut profile, &row("", &[("marks", number(58))]));
        assert_eq!(profile.known.member("marks"), number(58).as_ref());
        assert!(profile.known.declared.is_empty(), "the organisation's word replaces the member's");
        assert_eq!(profile.known.as_one_map().get("marks"), number(58).as_ref());
    }

    #[test]
    fn an_empty_cell_takes_a_value_away_and_locks_it() {
        let mut profile = Profile::default();
        import(&mut profile, &row("Ann", &[("marks", number(58))]));
        assert!(import(&mut profile, &row("", &[("marks", None), ("age", None)])).has_changed);
        assert!(!import(&mut profile, &row("", &[("marks", None)])).has_changed);
        assert_eq!((profile.known.member("marks"), profile.known.member("age")), (None, None));
        assert!(profile.update(&update(&[("marks", number(99))])).is_err());
        assert!(profile.update(&update(&[("age", number(99))])).is_err());
        // A column that a file does not have changes nothing.
        assert!(!import(&mut profile, &row("Ann", &[])).has_changed);
    }

    #[test]
    fn an_organisers_edit_wins_over_an_import() {
        let mut profile = Profile::default();
        import(&mut profile, &row("Ann", &[("marks", number(58)), ("age", number(20))]));
        profile.edit(&edit(&[("marks", number(60))], &["age"], &[]), now()).unwrap();
        let again = row("Ann", &[("marks", number(58)), ("age", number(20)), ("city", number(1))]);
        let held = import(&mut profile, &again);
        assert_eq!((held.has_changed, held.held), (true, vec!["age".to_owned(), "marks".to_owned()]));
        assert_eq!(profile.known.member("marks"), number(60).as_ref());
        let over = profile.import(&again, now(), true).unwrap();
        assert!(over.has_changed && over.held.is_empty());
        assert_eq!(profile.known.member("age"), number(20).as_ref());
        assert_eq!(profile.known.verified["age"].source, Source::Import);
        profile.edit(&edit(&[], &[], &["age", "name"]), now()).unwrap();
        profile.update(&named("Ann A. Lee")).unwrap();
        profile.update(&update(&[("age", number(21))])).unwrap();
        assert_eq!(profile.known.member("age"), None, "released, it is the member's to say");
    }

    #[test]
    fn each_map_is_bounded() {
        let many = |count: usize| {
            let names: Vec<_> = (0..count).map(|number| format!("a{number}")).collect();
            names.into_iter().map(|name| (name, number(1))).collect::<BTreeMap<_, _>>()
        };
        let mut profile = Profile::default();
        let full = Person { attributes: many(MAX_ATTRIBUTES), ..row("", &[]) };
        import(&mut profile, &full);
        assert!(profile.import(&row("", &[("more", number(1))]), now(), false).is_err());
        assert!(profile.edit(&edit(&[("more", number(1))], &[], &[]), now()).is_err());
        profile.edit(&edit(&[("more", number(1))], &[], &["a0"]), now()).unwrap();
        let own = UpdateProfile { attributes: many(MAX_ATTRIBUTES), ..update(&[]) };
        let mut profile = Profile::default();
        profile.update(&own).unwrap();
        assert!(profile.update(&update(&[("more", number(1))])).is_err());
    }

    #[test]
    fn the_first_profile_names_only_a_member_without_a_name() {
        let mut profile = Profile::default();
        profile.begin(&named("Ann")).unwrap();
        assert_eq!(profile.name, "Ann");
        profile.begin(&named("Eve")).unwrap();
        import(&mut profile, &row("Ann Lee", &[]));
        profile.begin(&named("Eve")).unwrap();
        assert_eq!(profile.name, "Ann Lee");
    }

    #[test]
    fn a_member_changes_the_rest_and_null_removes() {
        let mut profile = Profile::default();
        let pune = Some(Attribute::Text("Pune".into()));
        profile.update(&update(&[("city", pune)])).unwrap();
        profile.update(&update(&[("city", None), ("age", number(20))])).unwrap();
        assert_eq!(profile.known.declared.get("city"), None);
        assert_eq!(profile.known.declared.get("age"), number(20).as_ref());
    }

    #[test]
    fn an_empty_cell_leaves_nothing_of_what_the_member_said() {
        let mut profile = Profile::default();
        profile.update(&update(&[("marks", number(99))])).unwrap();
        import(&mut profile, &row("", &[("marks", None)]));
        assert_eq!((profile.known.member("marks"), profile.known.declared.get("marks")), (None, None));
        profile.update(&update(&[("marks", None)])).unwrap();
        profile.edit(&edit(&[], &[], &["marks"]), now()).unwrap();
        assert!(profile.known.declared.is_empty(), "and it does not come back");
    }

    #[test]
    fn more_attributes_than_there_may_be_can_still_be_corrected() {
        let names = (0..MAX_ATTRIBUTES + 6).map(|number| format!("a{number}"));
        let all = names.map(|name| (name, Attribute::Number(1.into()))).collect();
        let mut profile = Profile { known: Known::imported(all, now()), ..Profile::default() };
        assert!(import(&mut profile, &row("", &[("a0", number(2))])).has_changed);
        profile.edit(&edit(&[("a1", number(3))], &[], &[]), now()).unwrap();
        assert_eq!(profile.known.member("a1"), number(3).as_ref());
        assert!(profile.import(&row("", &[("more", number(1))]), now(), false).is_err());
    }
}
