//! Which known word somebody meant. The measure is that of Python's `difflib`, so that this program and the package
//! propose the same word: twice the characters in common, in order, over all characters (Ratcliff and Obershelp 1988).

/// What is less alike is another word.
const CUTOFF: f64 = 0.6;

/// The word of `known` that is most like `given`, if one is.
pub(crate) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let rated = known.iter().map(|word| (ratio(word, given), *word)).filter(|(ratio, _)| *ratio >= CUTOFF);
    rated.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1))).map(|(_, word)| word)
}

fn ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let all = a.len() + b.len();
    // A key of a configuration is short; what is not, is none.
    if all == 0 || b.len() > 256 {
        return 0.0;
    }
    2.0 * common(&a, &b) as f64 / all as f64
}

/// Characters of the longest common stretch, and of what lies before and after it.
fn common(a: &[char], b: &[char]) -> usize {
    let (mut best, mut from, mut to) = (0, 0, 0);
    for at in 0..a.len() {
        for other in 0..b.len() {
            let length = a[at..].iter().zip(&b[other..]).take_while(|(a, b)| a == b).count();
            if length > best {
                (best, from, to) = (length, at, other);
            }
        }
    }
    if best == 0 {
        return 0;
    }
    best + common(&a[..from], &b[..to]) + common(&a[from + best..], &b[to + best..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_finds_its_word() {
        let known = ["project_name", "log_level", "ram", "num_gpus", "worker"];
        assert_eq!(nearest("project_nam", &known), Some("project_name"));
        assert_eq!(nearest("gpus", &known), Some("num_gpus"));
        assert_eq!(nearest("zzz", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn the_measure_is_that_of_difflib() {
        // As `difflib.SequenceMatcher(None, a, b).ratio()` gives them.
        for (a, b, wanted) in
            [("abcd", "bcde", 0.75), ("worker", "wroker", 0.833_333), ("entrypoint", "entry", 0.666_667)]
        {
            assert!((ratio(a, b) - wanted).abs() < 1e-6, "{a} {b} {}", ratio(a, b));
        }
    }
}
