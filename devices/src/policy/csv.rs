//! The file: a header, then a line for each class.
//!
//! What casadm accepts is accepted: columns in any order, blank lines, spaces around fields, fields in quotation
//! marks (`casadm/csvparse.c` and `partition_get_config` in `casadm/cas_lib.c` of OpenCAS).

use super::class::{Allocation, Class, ClassId, Priority};
use super::error::{PolicyError, PolicyErrorKind as Kind};
use super::rule::Rule;
use super::{MAX_FILE_BYTES, MAX_NAME, Policy};

/// Columns of a file in the order in which they are written.
const COLUMNS: [&str; 4] = ["IO class id", "IO class name", "Eviction priority", "Allocation"];

pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(PolicyError { line: 1, kind: Kind::FileTooLong });
    }
    let mut lines = (1..).zip(text.lines());
    let (line, header) = lines.next().ok_or(PolicyError { line: 1, kind: Kind::NoHeader })?;
    let positions = parse_header(header).map_err(|kind| PolicyError { line, kind })?;
    let mut classes: Vec<Class> = Vec::new();
    let mut last = line;
    for (line, text) in lines {
        last = line;
        let add = |classes: &mut Vec<Class>| {
            if let Some(class) = parse_class(text, positions)? {
                match classes.binary_search_by_key(&class.id, |class| class.id) {
                    Ok(_) => return Err(Kind::DuplicateId(class.id.get())),
                    Err(place) => classes.insert(place, class),
                }
            }
            Ok(())
        };
        add(&mut classes).map_err(|kind| PolicyError { line, kind })?;
    }
    if classes.is_empty() {
        return Err(PolicyError { line: last, kind: Kind::NoClasses });
    }
    Ok(Policy::new(classes))
}

/// Where in a line each of [`COLUMNS`] stands.
fn parse_header(line: &str) -> Result<[usize; 4], Kind> {
    let fields = split(line)?;
    if fields.iter().all(String::is_empty) {
        return Err(Kind::NoHeader);
    }
    let mut positions = [None; 4];
    for (position, field) in fields.into_iter().enumerate() {
        match COLUMNS.iter().zip(&mut positions).find(|(name, _)| **name == field) {
            None => return Err(Kind::UnknownColumn(field)),
            Some((name, Some(_))) => return Err(Kind::DuplicateColumn(name)),
            Some((_, place)) => *place = Some(position),
        }
    }
    let mut found = [0; 4];
    for ((name, position), found) in COLUMNS.iter().zip(positions).zip(&mut found) {
        *found = position.ok_or(Kind::MissingColumn(name))?;
    }
    Ok(found)
}

/// The class of a line; none of a blank one.
fn parse_class(line: &str, positions: [usize; 4]) -> Result<Option<Class>, Kind> {
    let fields = split(line)?;
    if fields.len() == 1 && fields[0].is_empty() {
        return Ok(None);
    }
    if fields.len() != COLUMNS.len() {
        return Err(Kind::Fields(fields.len()));
    }
    let [id, name, priority, allocation] = positions.map(|position| fields[position].as_str());
    let id = number(id).and_then(ClassId::new).ok_or_else(|| Kind::Id(id.to_owned()))?;
    let printable = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'"');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(printable) {
        return Err(Kind::Name);
    }
    let rule = match id.fixed_name() {
        Some(expected) if name != expected => return Err(Kind::FixedName { id: id.get(), expected }),
        Some(_) => Rule::default(),
        None => Rule::parse(name)?,
    };
    let priority = match priority {
        "" => Priority::Pinned,
        text => Priority::Level(number(text).ok_or_else(|| Kind::Priority(text.to_owned()))?),
    };
    let allocation = Allocation::parse(allocation).ok_or_else(|| Kind::Allocation(allocation.to_owned()))?;
    Ok(Some(Class { id, name: name.to_owned(), priority, allocation, rule }))
}

/// Decimal digits only: the standard library would take a sign, too.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Fields of a line, without the spaces around them and without their quotation marks.
fn split(line: &str) -> Result<Vec<String>, Kind> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.trim_ascii_start().strip_prefix('"') {
            Some(quoted) => split_quoted(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim_ascii().to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// The field whose opening quotation mark was just read, and what follows. A doubled mark inside stands for one.
fn split_quoted(text: &str) -> Result<(String, &str), Kind> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (piece, after) = rest.split_once('"').ok_or(Kind::Quote)?;
        field.push_str(piece);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => {
                let after = after.trim_ascii_start();
                let ends = after.is_empty() || after.starts_with(',');
                return if ends { Ok((field, after)) } else { Err(Kind::Quote) };
            }
        }
    }
}
