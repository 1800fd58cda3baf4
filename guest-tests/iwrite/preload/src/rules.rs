//! Which paths have which class: `GLOB=CLASS`, several of them separated by colons, of which the first that matches
//! counts.
//!
//! In a glob, `*` stands for any bytes, slashes included, and `?` for any one. A path that holds a colon is named by
//! writing `?` for it.

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    glob: Vec<u8>,
    class: u32,
}

/// Why a rule is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// There is no `=`.
    NoClass,
    /// Nothing stands before the last `=`.
    NoGlob,
    /// What stands behind the last `=` is no number from 0 to 4294967295.
    NotANumber,
}

impl Problem {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Problem::NoClass => "has no =CLASS",
            Problem::NoGlob => "names no path",
            Problem::NotANumber => "has no class from 0 to 4294967295",
        }
    }
}

/// Reads rules, and tells `report` of those that are malformed. Empty ones are nothing.
pub(crate) fn parse(text: &[u8], mut report: impl FnMut(&[u8], Problem)) -> Vec<Rule> {
    let mut rules = Vec::new();
    for rule in text.split(|byte| *byte == b':').filter(|rule| !rule.is_empty()) {
        match one(rule) {
            Ok(rule) => rules.push(rule),
            Err(problem) => report(rule, problem),
        }
    }
    rules
}

fn one(rule: &[u8]) -> Result<Rule, Problem> {
    let at = rule.iter().rposition(|byte| *byte == b'=').ok_or(Problem::NoClass)?;
    let (glob, class) = (&rule[..at], &rule[at + 1..]);
    if glob.is_empty() {
        return Err(Problem::NoGlob);
    }
    let digits = class.iter().all(u8::is_ascii_digit);
    let class = std::str::from_utf8(class).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    Ok(Rule { glob: glob.to_vec(), class: class.ok_or(Problem::NotANumber)? })
}

/// The class of a path, if any rule matches.
pub(crate) fn class(rules: &[Rule], path: &[u8]) -> Option<u32> {
    rules.iter().find(|rule| matches(&rule.glob, path)).map(|rule| rule.class)
}

/// Whether a glob matches all of a text, in at most their lengths multiplied: behind a `*`, what follows it is tried
/// at each place, and only the last `*` need be tried again.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (g, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(text: &str) -> (Vec<Rule>, Vec<(String, Problem)>) {
        let mut problems = Vec::new();
        let rules = parse(text.as_bytes(), |rule, problem| {
            problems.push((String::from_utf8_lossy(rule).into_owned(), problem));
        });
        (rules, problems)
    }

    #[test]
    fn the_first_that_matches_counts() {
        let (rules, problems) = rules("*.db=3:/var/log/*=7:*a=b=9:*=0");
        assert!(problems.is_empty());
        for (path, wanted) in
            [("/x/y.db", 3), ("/var/log/y.db", 3), ("/var/log/z/a", 7), ("/q/a=b", 9), ("/etc/passwd", 0)]
        {
            assert_eq!(class(&rules, path.as_bytes()), Some(wanted), "{path}");
        }
        assert_eq!(class(&rules[..3], b"/etc/passwd"), None);
    }

    #[test]
    fn malformed_rules_are_told_and_ignored() {
        let (good, problems) = rules("a=1:b:=2:c=:d=-1:e=+1:f=4294967296:g=4294967295::h=x");
        assert_eq!(good.len(), 2);
        assert_eq!(class(&good, b"g"), Some(u32::MAX));
        let told: Vec<&str> = problems.iter().map(|(rule, _)| rule.as_str()).collect();
        assert_eq!(told, ["b", "=2", "c=", "d=-1", "e=+1", "f=4294967296", "h=x"]);
        assert_eq!(problems[0].1, Problem::NoClass);
        assert_eq!(problems[1].1, Problem::NoGlob);
    }

    /// Plainly by its definition.
    fn naive(glob: &[u8], text: &[u8]) -> bool {
        match (glob.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', glob)), _) => (0..=text.len()).any(|at| naive(glob, &text[at..])),
            (Some((g, glob)), Some((t, text))) => (*g == b'?' || g == t) && naive(glob, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_match_as_defined(glob in "[ab*?/]{0,8}", text in "[ab/]{0,10}") {
            prop_assert_eq!(matches(glob.as_bytes(), text.as_bytes()), naive(glob.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_rules_are_read(text in any::<Vec<u8>>(), path in any::<Vec<u8>>()) {
            let rules = parse(&text, |_, _| {});
            class(&rules, &path);
        }
    }
}
