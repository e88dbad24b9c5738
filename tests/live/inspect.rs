//! `tidegate inspect wal` on what people point it at: a directory in use, nothing, garbage, damage,
//! another format. The answer says what it is, in words that lead on.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::live::harness::{Node, TIDEGATE, home, now_ms};
use crate::live::wire::{Sender, request, series};

/// What it prints, its last words on standard error, and whether it was content.
fn inspect(paths: &[&Path]) -> (String, String, bool) {
    let output = Command::new(TIDEGATE).args(["inspect", "wal"]).args(paths).output();
    let output = output.expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let errors = text(&output.stderr);
    (text(&output.stdout), errors.trim_end().to_owned(), output.status.success())
}

/// The columns of the segments it printed.
fn rows(printed: &str) -> Vec<Vec<&str>> {
    let number = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    printed.lines().filter(number).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_directory_in_use_shows_what_it_holds() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let t = now_ms();
    for i in 0..30 {
        let one = |s: i64| {
            let s = s.to_string();
            series(&[("__name__", "inspected"), ("s", &s)], &[(t + i, 1.0)])
        };
        let answer = sender.write("a", &request((0..10).map(one).collect()));
        assert_eq!(answer.expect("an answer").status, 200);
        if i % 10 == 0 {
            // In the middle of it, too.
            let (_, errors, good) = inspect(&[&home.path().join("data")]);
            assert!(good, "{errors}");
        }
    }
    let data = home.path().join("data");
    let (printed, errors, good) = inspect(&[&data]);
    assert!(good && errors.is_empty(), "{errors}");
    let rows = rows(&printed);
    let sum = |column: usize| -> u64 {
        rows.iter().map(|row| row[column].parse::<u64>().expect("a number")).sum()
    };
    assert_eq!(sum(4), 300, "samples:\n{printed}");
    assert!(sum(3) >= 10, "series:\n{printed}");
    assert!(rows.iter().all(|row| row[9..].join(" ") == "whole"), "{printed}");
    assert_eq!(printed.matches("/log\n").count(), 2, "two logs:\n{printed}");
}

#[test]
fn what_is_no_log_is_told_from_what_is_damaged() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let t = now_ms();
    for i in 0..5 {
        let one = series(&[("__name__", "inspected")], &[(t + i, 1.0)]);
        assert_eq!(sender.write("a", &request(vec![one])).expect("an answer").status, 200);
    }
    node.kill();
    let at = home.path();
    let good = fs::read(at.join("data/shard-0/log/0000000000000001.log")).expect("a segment");
    let segment = |name: &str, bytes: &[u8]| {
        let dir = at.join(name);
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("0000000000000001.log"), bytes).expect("written");
        dir
    };
    let mut bad_block = good.clone();
    bad_block[8192 + 4096 + 68] ^= 1;
    let mut newer = good.clone();
    for copy in [0, 4096] {
        newer[copy + 8] = 2;
        let crc =
            crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &newer[copy + 8..copy + 120]);
        newer[copy + 4..copy + 8].copy_from_slice(&(crc as u32).to_le_bytes());
    }
    // What the newer one holds is not to be guessed at either.
    newer[8192..].fill(9);
    fs::create_dir_all(at.join("empty")).expect("a folder");
    fs::write(at.join("letter.txt"), "no log").expect("written");
    let no_segment = "is or holds no log segment: give a data directory";
    for (path, printed, error) in [
        (at.join("nowhere"), "", "No such file or directory"),
        (at.join("empty"), "", no_segment),
        (at.join("letter.txt"), "", no_segment),
        (segment("garbage", &[7; 10_000]), "no header, no blocks", ""),
        (segment("nothing", b""), "not begun", ""),
        (segment("zeros", &[0; 12_288]), "not begun", ""),
        (segment("good", &good), "whole", ""),
        (segment("damaged", &bad_block), "DAMAGED: segment 1", "places are damaged, see above"),
        (segment("newer", &newer), "ANOTHER FORMAT", "are of another format than 1"),
    ] {
        let (said, errors, good) = inspect(&[&path]);
        let name = path.display();
        assert!(said.contains(printed), "{name}: {said}\n{errors}");
        assert!(
            errors.contains(error) && errors.is_empty() == error.is_empty(),
            "{name}: {errors}"
        );
        assert_eq!(good, error.is_empty(), "{name}");
    }
}
