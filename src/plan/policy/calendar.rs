use super::{Evaluate, Objection, PlanFacts, PolicyFault};
use crate::api::TimeWindow;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp, Zoned};
use std::time::Duration;

/// How many overlapping repetitions are followed to find the end of a stretch. Beyond it the plan is judged again.
const MAX_REPETITIONS: usize = 1000;

/// Change windows and freezes.
#[derive(Debug)]
pub(super) struct Calendar {
    windows: Vec<Stretch>,
    freezes: Vec<Stretch>,
}

/// One recurring stretch of time.
#[derive(Debug)]
struct Stretch {
    cron: Cron,
    length: SignedDuration,
    zone: TimeZone,
    reason: Option<String>,
}

/// The end of a stretch; when it is not known, the time to look again.
struct End {
    at: Timestamp,
    known: bool,
}

impl Calendar {
    /// Reads windows and freezes; what is wrong goes to `faults`.
    pub fn new(windows: &[TimeWindow], freezes: &[TimeWindow], faults: &mut Vec<PolicyFault>) -> Self {
        let mut read = |field: &'static str, list: &[TimeWindow]| {
            let mut stretches = Vec::new();
            for (index, window) in list.iter().enumerate() {
                match Stretch::new(window) {
                    Ok(stretch) => stretches.push(stretch),
                    Err(reason) => faults.push(PolicyFault::Time { field, index, reason }),
                }
            }
            stretches
        };
        Self { windows: read("windows", windows), freezes: read("freezes", freezes) }
    }
}

impl Stretch {
    fn new(window: &TimeWindow) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser
            .parse(&window.schedule)
            .map_err(|error| format!("schedule '{}' is no cron expression: {error}", window.schedule))?;
        let name = window.time_zone.as_deref().unwrap_or("UTC");
        let zone = TimeZone::get(name)
            .map_err(|_| format!("timeZone '{name}' is no IANA time zone, for example Europe/Berlin"))?;
        let length = SignedDuration::try_from(Duration::from(window.duration))
            .ok()
            .filter(SignedDuration::is_positive)
            .ok_or_else(|| "duration must be longer than nothing".to_owned())?;
        let stretch = Self { cron, length, zone, reason: window.reason.clone() };
        let some_day = Timestamp::from_second(0).map_err(|error| error.to_string())?;
        stretch
            .next_start(some_day)
            .map_err(|_| format!("schedule '{}' never comes: no day matches it", window.schedule))?;
        Ok(stretch)
    }

    fn zoned(&self, at: Timestamp) -> Zoned {
        // Cron counts whole seconds.
        Timestamp::from_second(at.as_second()).unwrap_or(at).to_zoned(self.zone.clone())
    }

    fn next_start(&self, after: Timestamp) -> Result<Timestamp, String> {
        let next = self.cron.find_next_occurrence(&self.zoned(after), false);
        next.map(|start| start.timestamp()).map_err(|error| error.to_string())
    }

    /// When the stretch ends that holds at `now`; `None` outside of it. The bound is exclusive, and it is none when
    /// repetitions follow each other as far as one cares to look.
    fn end(&self, now: Timestamp) -> Result<Option<End>, String> {
        let after = |start: Timestamp| start.checked_add(self.length).map_err(|error| error.to_string());
        let mut start = match self.cron.find_previous_occurrence(&self.zoned(now), true) {
            Ok(start) => start.timestamp(),
            Err(error) => return Err(error.to_string()),
        };
        let mut end = after(start)?;
        if end <= now {
            return Ok(None);
        }
        for _ in 0..MAX_REPETITIONS {
            let next = self.next_start(start)?;
            if next > end {
                return Ok(Some(End { at: end, known: true }));
            }
            start = next;
            end = after(next)?;
        }
        Ok(Some(End { at: end, known: false }))
    }
}

impl Evaluate for Calendar {
    fn evaluate(&self, _: &PlanFacts<'_>, now: Option<Timestamp>) -> Vec<Objection> {
        let Some(now) = now else { return Vec::new() };
        let mut objections = Vec::new();
        let because = |stretch: &Stretch| stretch.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        for freeze in &self.freezes {
            match freeze.end(now) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    let local = end.at.to_zoned(freeze.zone.clone());
                    let until = if end.known {
                        format!("until {}", local.strftime("%F %R %Z"))
                    } else {
                        "without end".to_owned()
                    };
                    let reason = format!("changes are frozen{} {until}", because(freeze));
                    objections.push(Objection::Wait { reason, until: Some(end.at) });
                }
                Err(error) => {
                    let reason = format!("a freeze cannot be told from the time{}: {error}", because(freeze));
                    objections.push(Objection::Wait { reason, until: None });
                }
            }
        }
        if !self.windows.is_empty() && self.windows.iter().all(|window| !matches!(window.end(now), Ok(Some(_)))) {
            let next = self.windows.iter().filter_map(|window| Some((window.next_start(now).ok()?, window)));
            let next = next.min_by_key(|(start, _)| *start);
            let when = next.map(|(start, window)| {
                let local = start.to_zoned(window.zone.clone());
                format!("; the next opens at {}{}", local.strftime("%F %R %Z"), because(window))
            });
            let reason = format!("outside of its change windows{}", when.unwrap_or_default());
            objections.push(Objection::Wait { reason, until: next.map(|(start, _)| start) });
        }
        objections
    }
}
