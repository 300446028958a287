//! Where in a file a setting stands, by its place: `dbs[0].replica.url`.

use super::{Node, Value};

impl Node {
    /// The value at a place, nulls included; of repeated keys the last, which is
    /// the one that counts.
    pub(crate) fn at(&self, place: &str) -> Option<&Self> {
        steps(place).try_fold(self, Self::step)
    }

    /// The line of the value at a place, or of the innermost thing on the way to
    /// it that the file has.
    pub(crate) fn line_near(&self, place: &str) -> usize {
        let mut node = self;
        for step in steps(place) {
            match node.step(step) {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node.line
    }

    fn step(&self, step: &str) -> Option<&Self> {
        match &self.value {
            Value::Mapping(pairs) => {
                pairs.iter().rev().find(|(key, _)| key.scalar_text() == Some(step)).map(|(_, value)| value)
            }
            Value::Sequence(nodes) => nodes.get(step.parse::<usize>().ok()?),
            Value::Scalar { .. } => None,
        }
    }
}

/// `a.b[2].c` as `a`, `b`, `2`, `c`. No key contains these signs.
fn steps(place: &str) -> impl Iterator<Item = &str> {
    place.split(['.', '[', ']']).filter(|step| !step.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn places_lead_to_lines() {
        let text = "a: 1\ndbs:\n  - path: /x\n    replica:\n      url: u\n  - path: /y\na: 2\n";
        let root = parse(text, |line| line).unwrap().unwrap();
        assert_eq!(root.at("dbs[0].replica.url").unwrap().line(), 5);
        assert_eq!(root.at("a").unwrap().line(), 7, "the last one counts");
        assert!(root.at("dbs[2]").is_none() && root.at("a.b").is_none());
        assert_eq!(root.line_near("dbs[1].snapshot.interval"), 6);
        assert_eq!(root.line_near("dbs[7].path"), 3);
    }
}
