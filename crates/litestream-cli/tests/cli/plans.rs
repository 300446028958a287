//! The selection of files is an interface: on random trees it is upstream's.

use std::collections::BTreeSet;

use crate::{Outcome, Sandbox, tree};

/// A random tree as a writer makes it, with files lost at random: a transaction
/// a second, compactions of varying length, snapshots.
fn random_tree(rng: &mut fastrand::Rng, sandbox: &Sandbox, replica: &str) -> u64 {
    let last = rng.u64(1..40);
    let loss = rng.choice([0.0, 0.05, 0.3]).unwrap();
    let mut files: BTreeSet<(u8, u64, u64)> = (1..=last).map(|n| (0, n, n)).collect();
    for level in 1..=rng.u8(1..=8) {
        let mut min = 1;
        while min <= last {
            let max = (min + rng.u64(0..=u64::from(level) * 3)).min(last);
            files.insert((level, min, max));
            // Now and then a compaction overlaps the one before.
            min = if rng.u8(0..8) == 0 { max } else { max + 1 }.max(min + 1);
        }
    }
    for _ in 0..rng.usize(0..4) {
        files.insert((9, 1, rng.u64(1..=last)));
    }
    for (level, min, max) in files {
        if rng.f64() >= loss {
            let millis = max * 1000 + if level == 9 { rng.u64(0..5000) } else { 0 };
            tree::put(sandbox, replica, level, min, max, millis);
        }
    }
    std::fs::create_dir_all(sandbox.path(replica)).unwrap();
    last
}

/// Lists and plans of both programs. Where a hole lies before the wanted moment,
/// upstream restores older data without a word; there ours must name the hole.
#[test]
fn plans_and_listings_are_those_of_upstream_on_random_trees() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let upstream = litestream_testkit::upstream::litestream();
    let sandbox = Sandbox::new();
    let (mut same, mut refused, mut holes) = (0, 0, 0);
    for round in 0..25 {
        let replica = format!("r{round}");
        let last = random_tree(&mut rng, &sandbox, &replica);
        let url = format!("file://{}", sandbox.text(&replica));
        let config = sandbox.write("c.yml", &format!("dbs: [{{path: a.db, replica: {{path: {replica}}}}}]"));
        let both = |arguments: &[&str]| {
            let theirs = Outcome::of(&mut sandbox.command_of(upstream.path(), arguments));
            (sandbox.run(arguments), theirs)
        };
        for form in [&["ltx", "-level", "all", &url][..], &["ltx", "-json", "-level", "all", &url]] {
            let (ours, theirs) = both(form);
            assert_eq!((ours.code, ours.stdout), (theirs.code, theirs.stdout), "round {round} {form:?}");
        }
        let txid = format!("{:016x}", rng.u64(1..=last + 2));
        let moment = tree::moment(rng.u64(500..last * 1000 + 500));
        for target in [&[][..], &["-txid", &txid], &["-timestamp", &moment]] {
            // By path: with a URL upstream refuses times behind the newest file.
            let source = ["-config", &config, "a.db"];
            let arguments = [&["restore", "-dry-run", "-json", "-o", "x"][..], target, &source].concat();
            let (ours, theirs) = both(&arguments);
            if ours.stderr.contains(" are missing; ") {
                // Upstream stops before the hole, or fails in its own way.
                holes += 1;
                assert_eq!((ours.code, ours.stdout.as_str()), (1, ""), "round {round} {target:?}");
                assert!(!target.is_empty(), "round {round}: {ours:?} {theirs:?}");
                continue;
            }
            assert_eq!((ours.code, &ours.stdout), (theirs.code, &theirs.stdout), "round {round} {target:?} {ours:?}");
            same += 1;
            refused += i32::from(ours.code == 1);
            let message = |outcome: &Outcome| {
                let line = outcome.stderr.lines().find(|line| line.starts_with("Error: "));
                // Of several files behind a hole, each program names one.
                line.map(|line| line.split(" but next file").next().unwrap().to_owned())
            };
            assert_eq!(message(&ours), message(&theirs), "round {round} {target:?}");
        }
    }
    println!("{same} the same, {refused} of them refused, {holes} refused for a hole");
    assert!(same - refused >= 15, "too few plans to say anything");
}
