//! Days and times of the proleptic Gregorian calendar, as MySQL counts and writes them. No zones: what is here is a wall clock.

/// Microseconds of a day.
pub const DAY: i64 = 86_400_000_000;
/// The first day after those that there are: years are 1 to 9999.
const YEARS: std::ops::RangeInclusive<i64> = 1..=9999;

/// The day's number, from 1970-01-01; `None` if there is no such day.
pub fn days(year: i64, month: i64, day: i64) -> Option<i32> {
    if !YEARS.contains(&year) || !(1..=12).contains(&month) || day < 1 || day > month_length(year, month) {
        return None;
    }
    // Years that begin in March have their odd day at the end.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let number = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    i32::try_from(number).ok()
}

fn month_length(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

/// Year, month and day of a day's number.
pub fn civil(days: i32) -> (i64, i64, i64) {
    let shifted = i64::from(days) + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * march_month + 2) / 5 + 1)
}

/// Microseconds since midnight; `None` if there is no such time of day.
pub fn micros_of_day(hour: i64, minute: i64, second: i64, micros: u32) -> Option<i64> {
    let good = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    (good && micros < 1_000_000).then(|| ((hour * 60 + minute) * 60 + second) * 1_000_000 + i64::from(micros))
}

/// Microseconds since 1970.
pub fn date_time(days: i32, micros: i64) -> i64 {
    i64::from(days) * DAY + micros
}

/// The day's number, and the microseconds since its midnight.
pub fn split(at: i64) -> (i32, i64) {
    // The years that there are fit.
    (at.div_euclid(DAY) as i32, at.rem_euclid(DAY))
}

/// Rounded to so many digits of a second.
pub fn round(at: i64, digits: u8) -> i64 {
    let unit = 10i64.pow(6 - u32::from(digits.min(6)));
    (at + unit / 2).div_euclid(unit) * unit
}

/// `2024-02-29`.
pub fn date_text(days: i32) -> String {
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2024-02-29 12:00:00`, with so many digits of a second.
pub fn date_time_text(at: i64, digits: u8) -> String {
    let (days, micros) = split(at);
    let seconds = micros / 1_000_000;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = format!("{} {hour:02}:{minute:02}:{second:02}", date_text(days));
    if digits > 0 {
        let fraction = format!("{:06}", micros % 1_000_000);
        text.push('.');
        text.push_str(&fraction[..usize::from(digits.min(6))]);
    }
    text
}

/// Reads a day, maybe with the time: `2024-2-29`, `24-02-29T1:02:03.5`, `20240229010203`; any punctuation stands between the
/// parts. The last one says whether all of the text was read.
pub fn parse(text: &str) -> Option<(i64, bool)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let after = text.as_bytes().get(digits);
    if matches!(digits, 6 | 8 | 12 | 14) && after.is_none_or(|&byte| byte == b'.') {
        return parse_digits(text, digits);
    }
    let mut parts = [0i64; 6];
    let mut widths = [0usize; 6];
    let mut rest = text;
    let mut found = 0;
    while found < 6 {
        let width = rest.bytes().take_while(u8::is_ascii_digit).count();
        if width == 0 || width > 4 || width > 2 && found > 0 {
            break;
        }
        (parts[found], widths[found]) = (rest[..width].parse().ok()?, width);
        rest = &rest[width..];
        found += 1;
        let next = rest.chars().next();
        let separator =
            next.filter(|next| next.is_ascii_punctuation() || (found == 3 && (*next == 'T' || *next == ' ')));
        match separator {
            Some('.') if found == 6 => break,
            Some(separator) if found < 6 => rest = &rest[separator.len_utf8()..],
            _ => break,
        }
    }
    if found < 3 {
        return None;
    }
    let (micros, rest) = if found == 6 { fraction(rest) } else { (0, rest) };
    let year = if widths[0] <= 2 { two_digit_year(parts[0]) } else { parts[0] };
    let days = days(year, parts[1], parts[2])?;
    Some((date_time(days, micros_of_day(parts[3], parts[4], parts[5], 0)?) + micros, rest.is_empty()))
}

fn two_digit_year(year: i64) -> i64 {
    if year < 70 { 2000 + year } else { 1900 + year }
}

/// `.5` as microseconds, rounded; and what follows.
fn fraction(text: &str) -> (i64, &str) {
    let Some(rest) = text.strip_prefix('.') else { return (0, text) };
    let width = rest.bytes().take_while(u8::is_ascii_digit).count();
    let seven = rest[..width].bytes().chain(std::iter::repeat(b'0')).take(7);
    let value = seven.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    ((value + 5) / 10, &rest[width..])
}

fn parse_digits(text: &str, digits: usize) -> Option<(i64, bool)> {
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let (year, at) = match digits {
        8 | 14 => (number(0, 4)?, 4),
        _ => (two_digit_year(number(0, 2)?), 2),
    };
    let days = days(year, number(at, at + 2)?, number(at + 2, at + 4)?)?;
    let time = match digits {
        12 | 14 => {
            micros_of_day(number(at + 4, at + 6)?, number(at + 6, at + 8)?, number(at + 8, at + 10)?, 0)?
        }
        _ => 0,
    };
    let (micros, rest) = fraction(&text[digits..]);
    Some((date_time(days, time) + micros, rest.is_empty()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_days() {
        assert_eq!(days(1970, 1, 1), Some(0));
        assert_eq!(days(2000, 3, 1), Some(11_017));
        assert_eq!(days(1, 1, 1), Some(-719_162));
        assert_eq!(days(9999, 12, 31), Some(2_932_896));
        let none = [
            (0, 1, 1),
            (10_000, 1, 1),
            (2023, 2, 29),
            (1900, 2, 29),
            (2024, 13, 1),
            (2024, 4, 31),
            (2024, 4, 0),
        ];
        assert!(none.into_iter().all(|(year, month, day)| days(year, month, day).is_none()));
        assert!(days(2000, 2, 29).is_some());
    }

    #[test]
    fn golden_texts() {
        let read = |text: &str| parse(text).map(|(at, all)| (date_time_text(at, 6), all));
        let good = |text: &str| Some((text.to_owned(), true));
        assert_eq!(read("2024-02-29"), good("2024-02-29 00:00:00.000000"));
        assert_eq!(read("2024-2-9 1:02:3.5"), good("2024-02-09 01:02:03.500000"));
        assert_eq!(read("2024/02/29T23.59.59"), good("2024-02-29 23:59:59.000000"));
        assert_eq!(read("20240229010203.1234567"), good("2024-02-29 01:02:03.123457"));
        assert_eq!(read("691231"), good("2069-12-31 00:00:00.000000"));
        assert_eq!(read("70-1-1"), good("1970-01-01 00:00:00.000000"));
        assert_eq!(read("2024-02-29 12:00:00x").map(|(_, all)| all), Some(false));
        assert_eq!(
            [read("2024-02-30"), read("abc"), read(""), read("2024-01"), read("2024-01-01 25:00:00")],
            [const { None }; 5]
        );
        assert_eq!(date_time_text(-1, 0), "1969-12-31 23:59:59");
        assert_eq!(date_time_text(round(1_999_999, 2), 2), "1970-01-01 00:00:02.00");
    }

    proptest! {
        #[test]
        fn days_survive(number in -719_162i32..=2_932_896, micros in 0..DAY) {
            let (year, month, day) = civil(number);
            prop_assert_eq!(days(year, month, day), Some(number));
            let at = date_time(number, micros);
            prop_assert_eq!(split(at), (number, micros));
            prop_assert_eq!(parse(&date_time_text(at, 6)), Some((at, true)));
        }

        #[test]
        fn odd_texts_never_panic(text: String, near in "[0-9./:T -]{0,24}") {
            let _ = parse(&text);
            let _ = parse(&near);
        }
    }
}
