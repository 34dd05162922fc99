//! A simulated world around the real parts. One number, the seed, determines everything that
//! happens in it. See docs/explanation/simulation.md.
//!
//! Many worlds have the pure core, in memory, and the embedded broker. Some have the real batch and
//! the real tables on SQLite instead.
//! `MUSTER_SEED=1234 cargo nextest run --test system simulation::` repeats one seed, on both.
//! `MUSTER_SEEDS=1000000` runs that many seeds instead of 10,000.

mod ask;
mod check;
mod dice;
mod journal;
mod lane;
mod looped;
mod machine;
mod memory;
mod model;
mod people;
mod process;
mod store;
mod world;
mod zombie;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::journal::{Counts, Journal};
use self::machine::Machine;
use self::world::World;

/// Seeds that run with the pure core, over all blocks.
const SEEDS: u64 = 10_000;
/// Seeds that also run with everything real. If another number of seeds is asked for, the share
/// stays the same.
const WHOLE: u64 = 600;
/// Seeds that run with the real loop.
const LOOPED: u64 = 200;
/// Blocks of seeds. Each is a test of its own, so they use all cores.
const BLOCKS: u64 = 6;
/// Commands per world, besides those that make its drives.
const ASKS: usize = 16;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Runs one seed. Returns the history, if all checks passed.
fn live(seed: u64, machine: &mut Machine) -> Journal {
    history(seed, |journal| World::new(seed, machine, journal).live(ASKS).map(drop))
}

fn history(seed: u64, live: impl FnOnce(&mut Journal) -> anyhow::Result<()>) -> Journal {
    let mut journal = Journal::default();
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut journal)));
    let why = match lived {
        Ok(Ok(())) => return journal,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "it panicked (see above)".to_owned(),
    };
    panic!(
        "\n{}\n\nseed {seed}: {why}\n\nto live through it again:\n  \
         MUSTER_SEED={seed} cargo nextest run --test system simulation::\n",
        journal.text()
    );
}

/// The seeds of a block, of `all` seeds. If `MUSTER_SEED` is set, only that one.
fn seeds(block: u64, all: u64) -> Vec<u64> {
    match number("MUSTER_SEED") {
        Some(seed) => Vec::from_iter((seed % BLOCKS == block).then_some(seed)),
        None => (block..all).step_by(usize::try_from(BLOCKS).unwrap()).collect(),
    }
}

/// A world without faults proves nothing. Over many seeds, each kind of thing must have happened.
fn everything_happened(counts: &Counts) {
    let never: Vec<_> = journal::KINDS.iter().filter(|kind| !counts.contains_key(**kind)).collect();
    assert!(never.is_empty(), "in none of the worlds: {never:?}, but {counts:#?}");
}

fn core(block: u64) {
    let mut counts = Counts::new();
    let mut machine = Machine::core();
    let seeds = seeds(block, number("MUSTER_SEEDS").unwrap_or(SEEDS));
    for seed in &seeds {
        let journal = live(*seed, &mut machine);
        if number("MUSTER_SEED").is_some() {
            println!("{}", journal.text());
        }
        journal.counts.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
    }
    println!("{} worlds: {counts:#?}", seeds.len());
    if seeds.len() > 1_000 {
        everything_happened(&counts);
    }
}

/// The batch and the tables must have the same history as the pure core, including the logs'
/// hashes.
fn whole(block: u64) {
    let (mut whole, mut core) = (Machine::whole(), Machine::core());
    let all = number("MUSTER_SEEDS").map_or(WHOLE, |seeds| seeds * WHOLE / SEEDS);
    for seed in seeds(block, all) {
        the_same(seed, &live(seed, &mut whole), &live(seed, &mut core));
    }
}

fn the_same(seed: u64, one: &Journal, two: &Journal) {
    let differs = one.lines().zip(two.lines()).find(|(one, two)| one != two);
    assert!(one.hash() == two.hash(), "seed {seed} has two histories: {differs:#?}\n\n{}", one.text());
}

macro_rules! blocks {
    ($($core:ident, $whole:ident = $index:literal,)+) => {$(
        #[test]
        fn $core() {
            core($index);
        }

        #[test]
        fn $whole() {
            whole($index);
        }
    )+};
}

blocks! {
    core_0, whole_0 = 0,
    core_1, whole_1 = 1,
    core_2, whole_2 = 2,
    core_3, whole_3 = 3,
    core_4, whole_4 = 4,
    core_5, whole_5 = 5,
}

/// The real loop around the batch, which ends at any moment.
#[test]
fn looped() {
    let all = number("MUSTER_SEEDS").map_or(LOOPED, |seeds| seeds * LOOPED / SEEDS);
    let mut machine = Machine::whole();
    for seed in number("MUSTER_SEED").map_or(0..all, |seed| seed..seed + 1) {
        history(seed, |journal| looped::World::new(seed, &mut machine, journal).live(3 * ASKS));
    }
}

/// The history must not depend on what the machine did before, or on how its threads were
/// scheduled.
#[test]
fn the_same_seed_has_the_same_history() {
    let (mut one, mut two) = (Machine::whole(), Machine::whole());
    for seed in 0..20 {
        live(1_000 + seed, &mut two);
        let first = live(seed, &mut one);
        assert!(first.lines().count() > 40, "much happens");
        the_same(seed, &first, &live(seed, &mut two));
    }
}
