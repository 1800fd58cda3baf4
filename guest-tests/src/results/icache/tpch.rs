//! A join of TPC-H through a secondary index, where the program says which pages are worth more.
//!
//! ```text
//!   secondary index of lineitem  ── read from its first page to its last, each time ──▶ no class
//!        │ some rows match
//!        ▼
//!   clustered index of orders    ── some pages of it, anywhere ───────────────────────▶ a class by hint
//! ```
//!
//! The paper has MySQL, does not name the query, and says that the secondary index is huge and lies in one piece. Here it is
//! sqlite with the tables of tpchgen; a table with an integer key is clustered by it there.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use tpchgen::generators::{LineItemGenerator, OrderGenerator};

use super::ext4;
use super::find::{disks, size_in_bytes};
use super::memory::LittleMemory;
use super::policies::Classless;
use super::record::Recorder;
use super::replay::{NoCache, Ours, System, Theirs};
use super::trace::{Phase, Trace};
use super::workloads::Workload;
use crate::command;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::packages::{Tool, ensure};
use crate::progress;
use crate::results::Figures;

/// Sizes of the cache, in MiB.
pub(super) const SIZES: [&str; 7] = ["8", "16", "24", "32", "48", "64", "128"];
/// 1.2 million rows in lineitem, 300,000 in orders.
const SCALE: f64 = 0.2;
/// Bytes of memory for sqlite and its pages.
const MEMORY: u64 = 16 << 20;
/// One join for each way of shipping. The first is not counted: nothing is cached.
const SHIPMODES: [&str; 5] = ["MAIL", "SHIP", "AIR", "RAIL", "TRUCK"];
/// Of the trace: a page of a clustered index.
const HINTED: u8 = 4;

const SCHEMA: &str = "\
PRAGMA page_size = 4096;
PRAGMA journal_mode = off;
PRAGMA synchronous = off;
CREATE TABLE orders (o_orderkey INTEGER PRIMARY KEY, o_custkey INTEGER, o_orderstatus TEXT, o_totalprice REAL,
  o_orderdate TEXT, o_orderpriority TEXT, o_clerk TEXT, o_shippriority INTEGER, o_comment TEXT);
CREATE TABLE lineitem (l_orderkey INTEGER, l_partkey INTEGER, l_suppkey INTEGER, l_linenumber INTEGER, l_quantity REAL,
  l_extendedprice REAL, l_discount REAL, l_tax REAL, l_returnflag TEXT, l_linestatus TEXT, l_shipdate TEXT,
  l_commitdate TEXT, l_receiptdate TEXT, l_shipinstruct TEXT, l_shipmode TEXT, l_comment TEXT,
  PRIMARY KEY (l_orderkey, l_linenumber)) WITHOUT ROWID;
.mode list
.separator |
.import orders.tbl orders
.import lineitem.tbl lineitem
CREATE INDEX secondary ON lineitem (l_partkey, l_discount, l_quantity, l_shipdate, l_shipmode);
";

/// With a plus sign sqlite cannot skip parts of the index by that column.
fn join(shipmode: &str) -> String {
    format!(
        "SELECT o_orderpriority, count(*) FROM lineitem INDEXED BY secondary JOIN orders ON o_orderkey = l_orderkey \
         WHERE l_shipmode = '{shipmode}' AND +l_discount BETWEEN 0.045 AND 0.075 AND l_quantity < 24 GROUP BY 1"
    )
}

/// Phases join-0 and so on.
pub(super) fn record(dir: &Path) -> Result<Trace> {
    let contents = dir.join("contents");
    std::fs::create_dir(&contents).map_err(Error::file("create", &contents))?;
    let database = contents.join("tpch.db");
    let hinted = load(dir, &database)?;
    let disk = Disk::ext4(dir.join("disk.img"), 512, Some(&contents))?;
    let mut classes = ext4::classes(disk.path(), 0)?;
    let blocks = disk.blocks("/tpch.db")?;
    let wrong = || Error::Missing("the pages of the database are not the blocks of its file".into());
    for page in hinted {
        let block = page.checked_sub(1).and_then(|page| blocks.get(page)).ok_or_else(wrong)?;
        *usize::try_from(*block).ok().and_then(|block| classes.get_mut(block)).ok_or_else(wrong)? = HINTED;
    }
    let recorder = Recorder::new(disk.path())?;
    let memory = LittleMemory::new(MEMORY)?;
    let query = |(number, shipmode): (usize, &&str)| {
        recorder.phase(&format!("join-{number}"), "ro", |root| {
            let database = root.join("tpch.db");
            memory.run(&format!(
                "sqlite3 -readonly {} \"{}\" > /dev/null",
                database.display(),
                join(shipmode)
            ))
        })
    };
    let phases: Result<Vec<Phase>> = SHIPMODES.iter().enumerate().map(query).collect();
    Ok(Trace { classes, phases: phases? })
}

/// Makes the database. Answers which of its pages are those of clustered indexes, the first page of all being 1.
fn load(dir: &Path, database: &Path) -> Result<Vec<usize>> {
    progress::note("making the tables of TPC-H");
    // Each field of a line ends with a bar, so that there seems to be one more after the last; sqlite leaves that out.
    write(&dir.join("orders.tbl"), OrderGenerator::new(SCALE, 1, 1).iter())?;
    write(&dir.join("lineitem.tbl"), LineItemGenerator::new(SCALE, 1, 1).iter())?;
    let script = dir.join("schema.sql");
    std::fs::write(&script, SCHEMA).map_err(Error::file("write", &script))?;
    ensure(Tool::Sqlite)?;
    let load = format!("sqlite3 {} < {} 2> /dev/null", database.display(), script.display());
    command::run(Command::new("sh").arg("-c").arg(load).current_dir(dir))?;
    let pages = "SELECT pageno FROM dbstat WHERE name IN ('orders', 'lineitem')";
    let pages = command::run(ensure(Tool::Sqlite)?.arg(database).arg(pages))?;
    Ok(String::from_utf8_lossy(&pages).lines().filter_map(|page| page.parse().ok()).collect())
}

/// A line for each row.
fn write(path: &Path, rows: impl Iterator<Item = impl Display>) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).map_err(Error::file("create", path))?);
    let written = rows.into_iter().try_for_each(|row| writeln!(file, "{row}")).and_then(|()| file.flush());
    written.map_err(Error::file("write", path))
}

/// What it is without hints: pages are those of a large file.
fn unhinted(trace: &Trace) -> Trace {
    let classes = trace.classes.iter().map(|&class| if class == HINTED { 0 } else { class });
    Trace { classes: classes.collect(), phases: trace.phases.clone() }
}

/// Simulated seconds of a join, on average.
fn run(system: &mut dyn System, trace: &Trace) -> Result<f64> {
    let mut first = 0.0;
    for (number, phase) in trace.phases.iter().enumerate() {
        phase.requests.iter().try_for_each(|&request| system.request(request))?;
        if number == 0 {
            first = system.seconds();
        }
    }
    Ok((system.seconds() - first) / (trace.phases.len() as f64 - 1.0))
}

/// Every cache at every size.
pub(super) fn measure() -> Result<Figures> {
    let trace = Workload::Tpch.trace()?;
    let plain = unhinted(&trace);
    let mut figures = Figures::new();
    count(&trace, &mut figures);
    let alone = run(&mut NoCache::new(&trace, disks()), &trace)?;
    let (mut over_lru, mut over_unhinted, mut worst) = (0_f64, 0_f64, f64::INFINITY);
    for size in SIZES {
        progress::note(&format!("TPC-H with a cache of {size} MiB"));
        let mut store = |name: &str, seconds: f64| {
            figures.insert(format!("icache-tpch.seconds.{name}.{size}"), seconds);
        };
        let mut cache = Ours::new(size_in_bytes(size)?, &trace, disks())?;
        let capacity = cache.capacity();
        let ours = run(&mut cache, &trace)?;
        let without = run(&mut Ours::new(size_in_bytes(size)?, &plain, disks())?, &plain)?;
        store("ours", ours);
        store("unhinted", without);
        store("none", alone);
        over_unhinted = over_unhinted.max(without / ours);
        let mut best = f64::INFINITY;
        for policy in Classless::ALL {
            let theirs = run(&mut Theirs::new(policy, capacity, &trace, disks()), &trace)?;
            store(policy.key(), theirs);
            best = best.min(theirs);
            if policy == Classless::Lru {
                over_lru = over_lru.max(theirs / ours);
            }
        }
        worst = worst.min(best / ours);
    }
    figures.insert("tpch.speedup".into(), over_lru);
    figures.insert("tpch.over_unhinted".into(), over_unhinted);
    figures.insert("tpch.over_best_classless".into(), worst);
    Ok(figures)
}

/// How much of what the joins read is hinted, and how large all of it is.
fn count(trace: &Trace, figures: &mut Figures) {
    let mut reads: HashMap<u32, f64> = HashMap::new();
    let warm = trace.phases.iter().skip(1).flat_map(|phase| &phase.requests);
    warm.flat_map(|request| request.blocks()).for_each(|block| *reads.entry(block).or_default() += 1.0);
    let hinted = |block: &u32| trace.classes[*block as usize] == HINTED;
    let joins = trace.phases.len() as f64 - 1.0;
    for (name, holds) in [("hinted", true), ("unhinted", false)] {
        let of = reads.iter().filter(|(block, _)| hinted(block) == holds);
        let (blocks, times) = of.fold((0.0, 0.0), |sum, (_, times)| (sum.0 + 1.0, sum.1 + times));
        figures.insert(format!("tpch.{name}_mib"), blocks / 256.0);
        figures.insert(format!("tpch.{name}_reads"), times / joins);
    }
}
