//! strptime's fields and the moment they mean together, with what is missing taken from now.

use std::str;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Zones by their abbreviations, in minutes east of Greenwich. An abbreviation is one offset, summer
/// or winter; those that several regions share mean what fail2ban takes them for.
const ZONES: [(i32, &str); 36] = [
    (-720, "Y"),
    (-660, "X NUT SST"),
    (-600, "W CKT HAST HST TAHT TKT"),
    (-570, "MART MIT"),
    (-540, "V AKST GAMT GIT HADT"),
    (-480, "U AKDT CIST PST PT"),
    (-420, "T MST PDT"),
    (-360, "S CST EAST GALT MDT"),
    (-300, "R CDT COT EASST ECT EST ET PET"),
    (-270, "VET HLV"),
    (-240, "Q AST BOT CLT COST EDT FKT GYT PYT"),
    (-210, "NST NT HNT"),
    (-180, "P ADT ART BRT CLST FKST GFT PMST PYST SRT UYT WGT"),
    (-150, "NDT HAT"),
    (-120, "O BRST FNT PMDT UYST WGST"),
    (-60, "N AZOT CVT EGT"),
    (0, "Z EGST GMT UTC WET WT"),
    (60, "A CET DFT WAT WEDT WEST"),
    (120, "B CAT CEDT CEST EET SAST WAST"),
    (180, "C EAT EEDT EEST IDT MSK"),
    (210, "IRST"),
    (240, "D AMT AZT GET GST KUYT MSD MUT RET SAMT SCT"),
    (270, "AFT IRDT"),
    (300, "E AMST AQTT AZST HMT MAWT MVT PKT TFT TJT TMT UZT YEKT"),
    (330, "SLT"),
    (345, "NPT"),
    (360, "F ALMT BIOT BTT IOT KGT NOVT OMST YEKST"),
    (390, "CCT MMT"),
    (420, "G CXT DAVT HOVT ICT KRAT NOVST OMSST THA WIB"),
    (480, "H ACT AWST BDT BNT CAST HKT IRKT KRAST MYT PHT SGT ULAT WITA WST"),
    (540, "I AWDT IRKST JST KST PWT TLT WDT WIT YAKT"),
    (570, "ACST"),
    (600, "K AEST CHST PGT VLAT YAKST YAPT"),
    (630, "ACDT LHST"),
    (660, "L AEDT LHDT MAGT NCT PONT SBT VLAST VUT"),
    (720, "M ANAST ANAT FJT GILT MAGST MHT NZST PETST PETT TVT WFT"),
];

/// What a line states of its date.
#[derive(Debug, Default)]
pub(super) struct DateFields {
    year: Option<i16>,
    month: Option<i8>,
    day: Option<i8>,
    day_of_year: Option<i16>,
    hour: i8,
    afternoon: Option<bool>,
    minute: i8,
    second: i8,
    nanos: i32,
    offset: Option<Offset>,
    /// Seconds since 1970, or a label of TAI64, which need nothing else.
    moment: Option<Timestamp>,
}

// === impl DateFields ===

impl DateFields {
    /// Takes over a group by its name; names that are no field's are passed over.
    pub(super) fn take(&mut self, name: &str, text: &[u8]) -> Option<()> {
        let text = str::from_utf8(text).ok()?;
        let number = || text.trim().parse::<i16>().ok();
        let small = || text.trim().parse::<i8>().ok();
        match name {
            "Y" => self.year = Some(number()?),
            "y" => self.year = Some(2000 + number()?),
            "m" => self.month = Some(small()?),
            "b" | "B" => {
                let short = text.get(..3)?;
                let index = MONTHS.iter().position(|month| month[..3].eq_ignore_ascii_case(short))?;
                self.month = Some(index as i8 + 1);
            }
            "d" => self.day = Some(small()?),
            "j" => self.day_of_year = Some(number()?),
            "H" => self.hour = small()?,
            "I" => {
                self.hour = small()?;
                self.afternoon = self.afternoon.or(Some(false));
            }
            "p" => self.afternoon = Some(text.eq_ignore_ascii_case("pm")),
            "M" => self.minute = small()?,
            // A leap second counts as the second before it.
            "S" => self.second = small()?.min(59),
            "f" => self.nanos = format!("{text:0<9}").get(..9)?.parse().ok()?,
            "z" | "Z" => self.offset = Some(offset(text)?),
            "epoch" => self.moment = Some(epoch(text)?),
            "tai" => {
                // The label's upper bit marks the present; fail2ban reads it as plain seconds.
                let seconds = i64::from_str_radix(text.get(1..16)?, 16).ok()?;
                let nanos = i32::from_str_radix(text.get(16..24)?, 16).unwrap_or(0).min(999_999_999);
                self.moment = Some(Timestamp::new(seconds, nanos).ok()?);
            }
            _ => {}
        }
        Some(())
    }

    /// The moment. A missing year is the nearest that is not more than a day ahead, a missing day the
    /// last on which the time is not ahead; a day that neither this year nor those beside it have is now.
    pub(super) fn moment(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.moment.is_some() {
            return self.moment;
        }
        let zone = self.offset.map_or_else(|| zone.clone(), TimeZone::fixed);
        let today = now.to_zoned_datetime(zone.clone()).date();
        let time = self.time()?;
        let at = |date: Date| super::plain::local(DateTime::from_parts(date, time), now, &zone);
        if let Some(date) = self.year.map(|year| self.date(year)) {
            return at(date?);
        }
        if self.month.is_none() && self.day.is_none() && self.day_of_year.is_none() {
            let moment = at(today)?;
            return if moment > now { at(today.yesterday().ok()?) } else { Some(moment) };
        }
        let ahead = SignedDuration::from_hours(24);
        let in_year = |years: i16| at(self.date(today.year() + years)?);
        [1, 0, -1]
            .into_iter()
            .filter_map(in_year)
            .find(|moment| moment.duration_since(now) <= ahead)
            // A 29th of February in a year without one: as good as no date.
            .or_else(|| (-8..=-2).find_map(in_year).map(|_| now))
    }

    fn date(&self, year: i16) -> Option<Date> {
        match (self.day_of_year, self.month, self.day) {
            (Some(day), None, _) | (Some(day), _, None) => {
                let date = Date::new(year, 1, 1).ok()?.checked_add((day - 1).days()).ok()?;
                (date.year() == year).then_some(date)
            }
            (_, month, day) => Date::new(year, month?, day?).ok(),
        }
    }

    fn time(&self) -> Option<Time> {
        let hour = match self.afternoon {
            Some(true) if self.hour < 12 => self.hour + 12,
            Some(false) if self.hour == 12 => 0,
            _ => self.hour,
        };
        Time::new(hour, self.minute, self.second, self.nanos).ok()
    }
}

/// Seconds since 1970; milliseconds and microseconds where there are so many digits.
fn epoch(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let number: i64 = whole.parse().ok()?;
    let fraction: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let (seconds, nanos) = match whole.len() {
        ..=12 => (number, fraction),
        13..=15 => (number / 1000, number % 1000 * 1_000_000 + fraction / 1000),
        _ => (number / 1_000_000, number % 1_000_000 * 1000),
    };
    Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()
}

/// `Z`, `UTC`, `CEST`, `+0200`, `+02:00`, `+02`, `CET+0100`.
fn offset(text: &str) -> Option<Offset> {
    let at = text.find(['+', '-']).unwrap_or(text.len());
    let (name, number) = text.split_at(at);
    let base = if name.is_empty() {
        0
    } else {
        let upper = name.to_ascii_uppercase();
        ZONES.iter().find(|(_, names)| names.split(' ').any(|name| name == upper))?.0
    };
    let more = if number.is_empty() {
        0
    } else {
        let digits: String = number[1..].chars().filter(char::is_ascii_digit).collect();
        let hours: i32 = digits.get(..2)?.parse().ok()?;
        let minutes: i32 = digits.get(2..4).map_or(Some(0), |minutes| minutes.parse().ok())?;
        (hours * 60 + minutes) * if number.starts_with('-') { -1 } else { 1 }
    };
    Offset::from_seconds((base + more) * 60).ok()
}

/// A time zone by name: of the system's (`Europe/Zurich`), an abbreviation, or an offset such as
/// `UTC+0200`.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    let name = name.trim();
    if let Some(offset) = offset(name).filter(|_| !name.is_empty()) {
        return Ok(TimeZone::fixed(offset));
    }
    TimeZone::get(name).map_err(|error| {
        format!("`{name}` is no time zone that is known here ({error}): write such as UTC, UTC+0200, CET or Europe/Zurich")
    })
}
