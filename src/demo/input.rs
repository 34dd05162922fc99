//! The demo's real people: 215 candidates of a campus recruitment, 748 blood donors.

use anyhow::Context as _;
use serde_json::{Value, json};

/// The candidates of a campus recruitment, with their marks in per cent (a public data set).
const PLACEMENT: &str = include_str!("../../examples/placement_students.csv");
/// The donors of a blood transfusion service, with the months since their last donation (a public
/// data set).
const DONORS: &str = include_str!("../../examples/blood_donors.csv");

/// A drive to play.
#[derive(Debug)]
pub(super) struct Input {
    /// The drive's title.
    pub(super) title: &'static str,
    /// The people, as CSV for the import.
    pub(super) members: String,
    /// The common part of their e-mail addresses.
    pub(super) domain: &'static str,
    /// The number of people.
    pub(super) people: usize,
    /// The drive, without its window.
    pub(super) drive: Value,
}

/// 40 places and a waiting list of 60, for at least 60 % at every level: a policy that placement
/// offices publish.
pub(super) fn placement() -> anyhow::Result<Input> {
    let rule = |name: &str, column: &str, level: &str| {
        json!({ "name": name, "when": format!("member.{column} >= 60"),
                "message": format!("At least 60 % in {level}") })
    };
    let (members, people) = members(PLACEMENT, "candidate", "placement.example")?;
    Ok(Input {
        title: "Campus placement",
        members,
        domain: "@placement.example",
        people,
        drive: json!({
            "title": "Campus placement", "kind": "placement", "venue": "Auditorium",
            "time_zone": "Asia/Kolkata", "capacity": 40, "waitlist_capacity": 60,
            "rules": [rule("ssc", "ssc_p", "secondary school"), rule("hsc", "hsc_p", "higher secondary school"),
                      rule("degree", "degree_p", "the degree")],
        }),
    })
}

/// 200 places and a waiting list of 100, for those whose last donation is at least two months ago.
pub(super) fn donation() -> anyhow::Result<Input> {
    let (members, people) = members(DONORS, "donor", "donors.example")?;
    Ok(Input {
        title: "Blood drive",
        members,
        domain: "@donors.example",
        people,
        drive: json!({
            "title": "Blood drive", "kind": "donation", "venue": "Community hall",
            "time_zone": "Asia/Taipei", "capacity": 200, "waitlist_capacity": 100,
            "rules": [{ "name": "recency", "when": "member.recency_months >= 2",
                        "message": "At least two months since the last donation" }],
        }),
    })
}

/// The data set as an import: the data has no names, so people get numbers.
fn members(data: &str, word: &str, domain: &str) -> anyhow::Result<(String, usize)> {
    let mut reader = csv::Reader::from_reader(data.as_bytes());
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = reader.headers().context("read the data set")?.clone();
    writer.write_record(["email", "name"].into_iter().chain(&header))?;
    let mut people = 0;
    for record in reader.records() {
        people += 1;
        let (email, name) = (format!("{word}-{people:03}@{domain}"), format!("{word} {people}"));
        writer.write_record(
            [email.as_str(), name.as_str()].into_iter().chain(&record.context("read the data set")?),
        )?;
    }
    Ok((String::from_utf8(writer.into_inner()?)?, people))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_sets_are_whole() {
        assert_eq!(placement().unwrap().people, 215);
        assert_eq!(donation().unwrap().people, 748);
        let table = domain::member::import::read(placement().unwrap().members.as_bytes(), None).unwrap();
        assert_eq!((table.people.len(), table.report.rejected_count), (215, 0));
    }
}
