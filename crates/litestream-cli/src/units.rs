//! Durations, sizes and integers as Go programs spell them.
//!
//! Configuration files, flags and log lines are read by people and scripts that
//! know the original's notation, so these three grammars are reproduced exactly:
//! `time.Duration`, go-humanize sizes, and base-0 integers. Nothing here touches
//! the clock.
//!
//! Spec: docs/configuration.md, "The file"; docs/commands.md, "Writing a command line" and "status".

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A signed duration in nanoseconds. Signed, because configuration accepts
/// negative values and validation prints them back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(i64);

impl GoDuration {
    /// No time at all.
    pub(crate) const ZERO: Self = Self(0);

    /// From nanoseconds.
    pub(crate) const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds.
    pub(crate) const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// From seconds.
    pub(crate) const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// The value in nanoseconds.
    pub(crate) const fn as_nanos(self) -> i64 {
        self.0
    }

    /// True above zero.
    pub(crate) const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// As a [`Duration`]; zero and negative values become zero.
    pub(crate) fn to_duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for GoDuration {
    /// Go's `Duration.String`: `0s`, `1.5ms`, `24h0m0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}µs", Fraction(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", Fraction(nanos, 1_000_000)),
            _ => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", Fraction(nanos % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

/// `value / unit` in decimal without trailing zeros; `unit` is a power of ten.
struct Fraction(u64, u64);

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, unit) = *self;
        write!(f, "{}", value / unit)?;
        let rest = value % unit;
        if rest == 0 {
            return Ok(());
        }
        let digits = unit.ilog10() as usize;
        let text = format!("{rest:0digits$}");
        write!(f, ".{}", text.trim_end_matches('0'))
    }
}

/// The text is not a Go duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParseDurationError(String);

impl fmt::Display for ParseDurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseDurationError {}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    /// `[+-]` then `0`, or one or more of a decimal number and a unit out of
    /// `ns us µs ms s m h`, without spaces.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseDurationError(format!("time: invalid duration {text:?}"));
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_len);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(invalid());
            }
            let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit_name, next) = after.split_at(unit_len);
            if unit_name.is_empty() {
                return Err(ParseDurationError(format!("time: missing unit in duration {text:?}")));
            }
            let unit = unit_nanos(unit_name)
                .ok_or_else(|| ParseDurationError(format!("time: unknown unit {unit_name:?} in duration {text:?}")))?;
            total = total.checked_add(scaled(whole, fraction, unit).ok_or_else(invalid)?).ok_or_else(invalid)?;
            rest = next;
        }
        let nanos = i64::try_from(total).map_err(|_| invalid())?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

/// Nanoseconds in a Go unit. Both code points that look like `µ` are accepted.
fn unit_nanos(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `whole.fraction * unit`, truncated; `None` when it does not fit.
fn scaled(whole: &str, fraction: &str, unit: u64) -> Option<u128> {
    let mut total = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? as u128 * unit as u128 };
    // Past eighteen digits a fraction no longer changes the nanoseconds.
    let digits: String = fraction.chars().take(18).collect();
    if !digits.is_empty() {
        total += digits.parse::<u128>().ok()? * unit as u128 / 10u128.pow(u32::try_from(digits.len()).ok()?);
    }
    Some(total)
}

/// A byte count in go-humanize's notation: `5MB`, `5 MiB`, `1,000`, `1.5G`.
///
/// # Errors
/// The original's texts, ready to be shown.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err("empty size string".to_owned());
    }
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let number: f64 = number
        .replace(',', "")
        .parse()
        .map_err(|_| format!("invalid size format: strconv.ParseFloat: parsing {number:?}: invalid syntax"))?;
    let unit = unit.trim().to_lowercase();
    let factor = size_factor(&unit).ok_or_else(|| format!("invalid size format: unhandled size name: {unit}"))?;
    let bytes = number * factor;
    if bytes >= 18_446_744_073_709_551_616.0 {
        return Err(format!("invalid size format: too large: {text}"));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked against 2^64; no sign is parsed"
    )]
    Ok(bytes as u64)
}

fn size_factor(unit: &str) -> Option<f64> {
    let (prefix, base) = match unit {
        "" | "b" => return Some(1.0),
        _ => match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('i')) {
            Some(prefix) => (prefix, 1024.0_f64),
            None => (unit.strip_suffix('b').unwrap_or(unit), 1000.0),
        },
    };
    let power = ["k", "m", "g", "t", "p", "e"].iter().position(|known| *known == prefix)?;
    Some(base.powi(i32::try_from(power).ok()? + 1))
}

/// A byte count for people, in powers of 1000: `0 B`, `4.2 kB`, `29 kB`.
pub(crate) fn format_size(bytes: u64) -> String {
    const NAMES: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut power = 0;
    let mut unit = 1u64;
    while bytes / unit >= 1000 {
        unit = unit.saturating_mul(1000);
        power += 1;
    }
    // Half up to one decimal, as the original rounds; u128 because the largest
    // counts times ten pass 64 bits.
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    let name = NAMES.get(power).copied().unwrap_or("EB");
    if tenths >= 100 {
        // Printing without decimals rounds half to even on the tenth already
        // rounded above.
        let (whole, rest) = (tenths / 10, tenths % 10);
        let up = rest > 5 || (rest == 5 && whole % 2 == 1);
        format!("{} {name}", whole + u128::from(up))
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// Why a text is not an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParseIntegerError {
    /// Not the notation of an integer.
    Syntax,
    /// An integer, but not a 64-bit one.
    Range,
}

impl fmt::Display for ParseIntegerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "parse error",
            Self::Range => "value out of range",
        })
    }
}

/// Go's base-0 integers: `10`, `0x10`, `0o17`, `017`, `0b1`, with `_` between
/// digits or after the base prefix.
pub(crate) fn parse_integer(text: &str) -> Result<i64, ParseIntegerError> {
    let (negative, magnitude) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let lower = magnitude.to_ascii_lowercase();
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.get(1..).unwrap_or_default())
    } else {
        (10, lower.as_str())
    };
    // An underscore may follow the prefix (which a leading zero also is), never
    // start a decimal number, end one, or stand beside another.
    let prefixed = radix != 10;
    if digits.is_empty() || digits.ends_with('_') || digits.contains("__") || (!prefixed && digits.starts_with('_')) {
        return Err(ParseIntegerError::Syntax);
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(ParseIntegerError::Syntax);
    }
    let value = i128::from_str_radix(&digits, radix).map_err(|_| ParseIntegerError::Range)?;
    i64::try_from(if negative { -value } else { value }).map_err(|_| ParseIntegerError::Range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (100, "100ns"),
            (11_955, "11.955µs"),
            (1_500_000, "1.5ms"),
            (500_000_000, "500ms"),
            (1_000_000_000, "1s"),
            (3_999_987_994, "3.999987994s"),
            (300_000_000_000, "5m0s"),
            (86_400_000_000_000, "24h0m0s"),
            (-3_600_000_000_000, "-1h0m0s"),
            (3_661_500_000_000, "1h1m1.5s"),
        ] {
            assert_eq!(GoDuration::from_nanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("1s", 1_000_000_000),
            ("+5m", 300_000_000_000),
            ("-1h", -3_600_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("7us", 7_000),
            ("7µs", 7_000),
            ("1ns", 1),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn other_durations_are_refused() {
        for text in ["", "5", "1d", "1w", "1 s", "1S", "s", ".s", "1.2.3s", "-", "1h5", "99999999999h", "∞"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_go_humanize_reads_them() {
        for (text, bytes) in [
            ("5", 5),
            ("5B", 5),
            ("5M", 5_000_000),
            ("5mb", 5_000_000),
            ("5Mi", 5_242_880),
            ("5 MiB", 5_242_880),
            ("1,000", 1000),
            ("1.5GB", 1_500_000_000),
            ("1EiB", 1 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn size_errors_are_the_known_texts() {
        assert_eq!(parse_size(""), Err("empty size string".to_owned()));
        assert_eq!(parse_size("5XB"), Err("invalid size format: unhandled size name: xb".to_owned()));
        assert_eq!(parse_size("99EB"), Err("invalid size format: too large: 99EB".to_owned()));
        assert!(parse_size("-5MB").unwrap_err().starts_with("invalid size format: "));
    }

    #[test]
    fn sizes_print_with_at_most_two_digits_of_precision() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (4152, "4.2 kB"),
            (28_872, "29 kB"),
            (1_000_000, "1.0 MB"),
            (82_854_982, "83 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn integers_of_every_base_are_read() {
        for (text, value) in
            [("10", 10), ("-5", -5), ("+5", 5), ("0x10", 16), ("0X1f", 31), ("0o17", 15), ("017", 15), ("0b11", 3)]
        {
            assert_eq!(parse_integer(text), Ok(value), "{text}");
        }
        assert_eq!(parse_integer("1_000"), Ok(1000));
        assert_eq!(parse_integer("0x_ff"), Ok(255));
        assert_eq!(parse_integer("0_7"), Ok(7));
    }

    #[test]
    fn bad_integers_say_why() {
        for text in ["", "x", "0x", "0x1g", "1e3", "1__0", "_1", "1_", "08", "1.0", "--1", "0x-1"] {
            assert_eq!(parse_integer(text), Err(ParseIntegerError::Syntax), "{text}");
        }
        assert_eq!(parse_integer("99999999999999999999"), Err(ParseIntegerError::Range));
        assert_eq!(parse_integer("-9223372036854775808"), Ok(i64::MIN));
    }
}
