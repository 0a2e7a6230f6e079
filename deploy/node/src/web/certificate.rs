//! The subject of an X.509 certificate, of which only three fields are wanted.
//!
//! The certificate was verified before; still nothing here trusts a length.

/// A field of the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `CN`
    CommonName,
    /// `O`
    Organization,
    /// `OU`
    OrganizationalUnit,
}

impl Field {
    /// The field by the name that Thanos uses.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "commonName" => Some(Field::CommonName),
            "organization" => Some(Field::Organization),
            "organizationalUnit" => Some(Field::OrganizationalUnit),
            _ => None,
        }
    }

    /// Its object identifier, below 2.5.4.
    fn identifier(self) -> [u8; 3] {
        let last = match self {
            Field::CommonName => 3,
            Field::Organization => 10,
            Field::OrganizationalUnit => 11,
        };
        [0x55, 0x04, last]
    }
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, where the version stands.
const VERSION: u8 = 0xa0;
/// Kinds of text whose bytes are UTF-8 or ASCII.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// Reads one value after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Kind and content of the next value; `None` at the end or when a length is wrong.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&kind, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, behind) = rest.split_at_checked(count)?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = behind;
        }
        let (content, behind) = rest.split_at_checked(length)?;
        self.0 = behind;
        Some((kind, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next()
            .and_then(|(kind, content)| (kind == wanted).then_some(content))
    }
}

/// The first value of a field of the subject of a certificate.
pub(super) fn subject(der: &[u8], field: Field) -> Option<String> {
    let certificate = Der(der).expect(SEQUENCE)?;
    let mut signed = Der(Der(certificate).expect(SEQUENCE)?);
    if signed.0.first() == Some(&VERSION) {
        signed.next()?;
    }
    signed.expect(INTEGER)?;
    // Algorithm, issuer, validity.
    for _ in 0..3 {
        signed.expect(SEQUENCE)?;
    }
    let mut names = Der(signed.expect(SEQUENCE)?);
    while let Some(set) = names.expect(SET) {
        let mut set = Der(set);
        while let Some(pair) = set.expect(SEQUENCE) {
            let mut pair = Der(pair);
            if pair.expect(OBJECT_IDENTIFIER)? != field.identifier() {
                continue;
            }
            let (kind, text) = pair.next()?;
            if !TEXTS.contains(&kind) {
                return None;
            }
            return String::from_utf8(text.to_vec()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        match content.len() {
            short @ 0..=0x7f => out.push(short as u8),
            long => out.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        out.extend_from_slice(content);
        out
    }

    fn certificate(subject: &[(u8, &str)], with_version: bool) -> Vec<u8> {
        let name = |(last, text): &(u8, &str)| {
            let pair = [
                value(OBJECT_IDENTIFIER, &[0x55, 4, *last]),
                value(0x0c, text.as_bytes()),
            ]
            .concat();
            value(SET, &value(SEQUENCE, &pair))
        };
        let names: Vec<u8> = subject.iter().flat_map(name).collect();
        let issuer = value(SEQUENCE, &name(&(3, "the authority")));
        let version = if with_version {
            value(VERSION, &value(INTEGER, &[2]))
        } else {
            Vec::new()
        };
        let signed = [
            version,
            value(INTEGER, &[1, 2, 3]),
            value(SEQUENCE, &[]),
            issuer,
            value(SEQUENCE, &[]),
            value(SEQUENCE, &names),
        ];
        value(SEQUENCE, &value(SEQUENCE, &signed.concat()))
    }

    #[test]
    fn fields_are_those_of_the_subject() {
        for with_version in [true, false] {
            let long = "x".repeat(200);
            let der = certificate(&[(10, "acme"), (11, &long), (3, "agent")], with_version);
            assert_eq!(subject(&der, Field::CommonName).as_deref(), Some("agent"));
            assert_eq!(subject(&der, Field::Organization).as_deref(), Some("acme"));
            assert_eq!(subject(&der, Field::OrganizationalUnit), Some(long));
        }
        assert_eq!(subject(&certificate(&[(10, "acme")], true), Field::CommonName), None);
    }

    #[test]
    fn cut_and_changed_bytes_never_panic() {
        let der = certificate(&[(10, "acme"), (3, "agent")], true);
        for end in 0..der.len() {
            assert_eq!(subject(&der[..end], Field::CommonName), None);
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut changed = der.clone();
                changed[at] ^= 1 << bit;
                let _ = subject(&changed, Field::CommonName);
            }
        }
    }
}
