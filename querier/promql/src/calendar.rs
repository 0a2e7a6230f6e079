//! Calendar dates in UTC, for the functions that take a time apart and for messages. Leap seconds do not exist.

use model::time::Timestamp;
use std::fmt;

/// A day of the Gregorian calendar and a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    /// The year; 0 is 1 BC.
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: u8,
    /// 1 to 31.
    pub(crate) day: u8,
    /// 1 to 366.
    pub(crate) day_of_year: u16,
    /// 0 is Sunday.
    pub(crate) weekday: u8,
    /// 0 to 23.
    pub(crate) hour: u8,
    /// 0 to 59.
    pub(crate) minute: u8,
    /// 0 to 59.
    pub(crate) second: u8,
}

const DAY_SECONDS: i64 = 86_400;

/// Days before each month in a common year.
const DAYS_BEFORE: [u16; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

impl Date {
    /// The date `seconds` after the Unix epoch.
    pub(crate) fn of(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY_SECONDS);
        let second_of_day = seconds.rem_euclid(DAY_SECONDS);
        // Counted from 1 March of the year 0, years end with the day that leap years add, and 400 of them have always as many days.
        let days_since_march = days + 719_468;
        let era = days_since_march.div_euclid(146_097);
        let day_of_era = days_since_march.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_since_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_since_march = (5 * day_since_march + 2) / 153;
        let day = (day_since_march - (153 * month_since_march + 2) / 5 + 1) as u8;
        let month = ((month_since_march + 2) % 12 + 1) as u8;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let leap_day = u16::from(is_leap(year) && month > 2);
        Self {
            year,
            month,
            day,
            day_of_year: DAYS_BEFORE[usize::from(month) - 1] + u16::from(day) + leap_day,
            weekday: (days + 4).rem_euclid(7) as u8,
            hour: (second_of_day / 3600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        }
    }

    /// Number of days of the month.
    pub(crate) fn days_in_month(&self) -> u8 {
        match self.month {
            2 => 28 + u8::from(is_leap(self.year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

/// A point in time as RFC 3339 writes it: `1970-01-01T00:00:01.5Z`.
pub(crate) struct Moment(pub(crate) Timestamp);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = Date::of(self.0.div_euclid(1000));
        write!(f, "{:04}-{:02}-{:02}T", date.year, date.month, date.day)?;
        write!(f, "{:02}:{:02}:{:02}", date.hour, date.minute, date.second)?;
        let milliseconds = self.0.rem_euclid(1000);
        if milliseconds != 0 {
            let digits = format!("{milliseconds:03}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        let check = |seconds: i64, text: &str, day_of_year: u16, weekday: u8, days_in_month: u8| {
            let date = Date::of(seconds);
            assert_eq!(Moment(seconds * 1000).to_string(), text);
            assert_eq!(
                (date.day_of_year, date.weekday, date.days_in_month()),
                (day_of_year, weekday, days_in_month)
            );
        };
        check(0, "1970-01-01T00:00:00Z", 1, 4, 31);
        check(-1, "1969-12-31T23:59:59Z", 365, 3, 31);
        check(1136239445, "2006-01-02T22:04:05Z", 2, 1, 31);
        check(1456790399, "2016-02-29T23:59:59Z", 60, 1, 29);
        check(1456790400, "2016-03-01T00:00:00Z", 61, 2, 31);
        check(1483191420, "2016-12-31T13:37:00Z", 366, 6, 31);
        check(1672493820, "2022-12-31T13:37:00Z", 365, 6, 31);
        check(-62_167_219_200, "0000-01-01T00:00:00Z", 1, 6, 31);
        check(951_782_400, "2000-02-29T00:00:00Z", 60, 2, 29);
        check(4_107_542_400, "2100-03-01T00:00:00Z", 60, 1, 31);
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        assert!(Date::of(i64::MAX / 2000).year > 1_000_000);
        assert!(Date::of(i64::MIN / 2000).year < -1_000_000);
    }
}
