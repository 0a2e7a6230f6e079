//! The replacement of `label_replace`: a template with references to what a regular expression captured.

/// Expands `$1`, `${1}`, `$name`, `${name}` and `$$` in `template`. What was not captured is empty; a `$` that begins none of these
/// stays.
pub(crate) fn expand(template: &str, captures: &regex::Captures<'_>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('$') {
            out.push('$');
            rest = behind;
            continue;
        }
        let Some((name, behind)) = reference(rest) else {
            out.push('$');
            continue;
        };
        rest = behind;
        let captured = match name.parse::<usize>() {
            Ok(number) => captures.get(number),
            Err(_) => captures.name(name),
        };
        out.push_str(captured.map_or("", |captured| captured.as_str()));
    }
    out.push_str(rest);
    out
}

/// The name behind a `$` and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (braced, text) = match text.strip_prefix('{') {
        Some(inside) => (true, inside),
        None => (false, text),
    };
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    let (name, behind) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    if braced {
        Some((name, behind.strip_prefix('}')?))
    } else {
        Some((name, behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_in_go() {
        let regex = regex::Regex::new("(?P<first>[a-z]+)-([0-9]+)(x)?").unwrap();
        let captures = regex.captures("abc-42").unwrap();
        let check = |template: &str, expected: &str| assert_eq!(expand(template, &captures), expected, "{template}");
        check("$1", "abc");
        check("${1}x", "abcx");
        check("$1x", "");
        check("$first-$2", "abc-42");
        check("${first}$0", "abcabc-42");
        check("$3", "");
        check("$9", "");
        check("a$$b", "a$b");
        check("cost: $", "cost: $");
        check("$-", "$-");
        check("${1", "${1");
        check("${}", "${}");
        check("plain", "plain");
    }
}
