//! A simulated world around the real parts: the rules, the batch, the log, the ledger and the tables on SQLite, and the
//! embedded broker. Everything that happens comes out of one number, the seed; see docs/simulation.md.
//!
//! `MUSTER_SEED=1234 cargo nextest run --test system simulation::` lives through one seed again;
//! `MUSTER_SEEDS=1000000` through so many instead of 10,000.

mod ask;
mod check;
mod dice;
mod journal;
mod lane;
mod machine;
mod model;
mod people;
mod process;
mod world;
mod zombie;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::journal::{Counts, Journal};
use self::machine::Machine;
use self::world::World;

/// How many seeds are lived through, by all blocks together.
const SEEDS: u64 = 10_000;
/// One test each, so that they use all cores.
const BLOCKS: u64 = 8;
/// How many commands are asked in a world, besides those that make its drives.
const ASKS: usize = 24;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Lives through one seed; the history, if all was well.
fn live(seed: u64, machine: &mut Machine) -> Journal {
    let mut journal = Journal::default();
    let lived = catch_unwind(AssertUnwindSafe(|| World::new(seed, machine, &mut journal).live(ASKS)));
    let why = match lived {
        Ok(Ok(_)) => return journal,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "it panicked (see above)".to_owned(),
    };
    panic!(
        "\n{}\n\nseed {seed}: {why}\n\nto live through it again:\n  \
         MUSTER_SEED={seed} cargo nextest run --test system simulation::\n",
        journal.text()
    );
}

/// Lives through the seeds of one block and returns what happened in them, how often.
fn block(index: u64) -> Counts {
    let mut counts = Counts::new();
    if let Some(seed) = number("MUSTER_SEED") {
        if index == seed % BLOCKS {
            println!("{}", live(seed, &mut Machine::new()).text());
        }
        return counts;
    }
    let since = std::time::Instant::now();
    let mut machine = Machine::new();
    let seeds = number("MUSTER_SEEDS").unwrap_or(SEEDS);
    for seed in (index..seeds).step_by(usize::try_from(BLOCKS).unwrap()) {
        for (kind, count) in live(seed, &mut machine).counts {
            *counts.entry(kind).or_default() += count;
        }
    }
    println!("{:?} {counts:#?}", since.elapsed());
    counts
}

macro_rules! blocks {
    ($($name:ident = $index:literal,)+) => {$(
        #[test]
        fn $name() {
            block($index);
        }
    )+};
}

blocks! {
    seeds_0 = 0,
    seeds_1 = 1,
    seeds_2 = 2,
    seeds_3 = 3,
    seeds_4 = 4,
    seeds_5 = 5,
    seeds_6 = 6,
    seeds_7 = 7,
}

/// Whatever else the machine has done before, and however its threads were scheduled.
#[test]
fn the_same_seed_has_the_same_history() {
    let (mut one, mut two) = (Machine::new(), Machine::new());
    for seed in 0..12 {
        live(1_000 + seed, &mut two);
        let (first, second) = (live(seed, &mut one), live(seed, &mut two));
        assert!(first.lines() > 40);
        assert_eq!(first.hash(), second.hash(), "\n{}\n\nand\n\n{}", first.text(), second.text());
    }
}
