//! Times at which workers are replaced.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil;

/// Reads a cron pattern: 5 fields, 6 with seconds, or `@daily` and the like.
///
/// # Errors
/// What is wrong with it; also if it is a time that never comes.
pub(crate) fn parse(pattern: &str) -> Result<Cron, String> {
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    let wrong = |reason: String| {
        format!("{pattern:?} is no cron pattern ({reason}); write 5 fields, 6 with seconds, or \"@daily\" and the like")
    };
    let cron = parser.parse(pattern).map_err(|error| wrong(error.to_string()))?;
    // From one day or another: there is no clock in a configuration.
    match cron.find_next_occurrence(&civil::date(2024, 1, 1).at(0, 0, 0, 0), true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(format!("{pattern:?} never comes; is the day one that its month has?")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialect_is_that_of_pm2() {
        for pattern in [
            "0 4 * * *",
            "*/30 * * * * *",
            "@daily",
            "@hourly",
            "0 0 L * *",
            "0 9 * * MON#1",
            "0 0 29 2 *",
        ] {
            assert!(parse(pattern).is_ok(), "{pattern}");
        }
        for pattern in [
            "",
            "daily",
            "* * * *",
            "60 * * * *",
            "0 0 30 2 *",
            "@never",
            "0 0 1 1 * * 2030",
            "é",
        ] {
            assert!(parse(pattern).is_err(), "{pattern}");
        }
    }
}
