use super::ModelError;
use crate::api::ModelPrice;
use std::fmt;

/// More digits than any price has, few enough for the arithmetic to stay exact in 128 bits.
const MOST_DIGITS: usize = 12;
/// Prices are per million tokens: six decimal places.
const MILLION_PLACES: u32 = 6;

/// Price per million tokens, kept as the decimal numbers that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    prompt: Decimal,
    completion: Decimal,
    currency: String,
}

impl Price {
    /// Reads a price list.
    ///
    /// # Errors
    /// [`ModelError::Settings`] when a price is not a plain decimal number of at most twelve digits before and twelve
    /// after the point, or the currency is not three capital letters.
    pub fn parse(list: &ModelPrice) -> Result<Self, ModelError> {
        let currency = list.currency.as_str();
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let problem = format!("must be an ISO 4217 code such as USD, found '{currency}'");
            return Err(ModelError::Settings { field: "price.currency", problem });
        }
        Ok(Self {
            prompt: Decimal::parse("price.prompt", &list.prompt)?,
            completion: Decimal::parse("price.completion", &list.completion)?,
            currency: currency.to_owned(),
        })
    }

    /// What so many tokens cost, exactly: `0.0123 USD`. None when the numbers are beyond anything that can be paid.
    #[must_use]
    pub fn of(&self, prompt_tokens: u64, completion_tokens: u64) -> Option<String> {
        let cost = self.prompt.times(prompt_tokens)?.plus(self.completion.times(completion_tokens)?)?;
        let cost = Decimal { digits: cost.digits, places: cost.places + MILLION_PLACES };
        Some(format!("{cost} {}", self.currency))
    }
}

/// `digits` divided by ten to the power of `places`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decimal {
    digits: u128,
    places: u32,
}

impl Decimal {
    fn parse(field: &'static str, text: &str) -> Result<Self, ModelError> {
        let wrong = || ModelError::Settings {
            field,
            problem: format!("must be a decimal number such as 0.15, found '{text}'"),
        };
        let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
        let digits =
            |part: &str| (1..=MOST_DIGITS).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !fraction.is_none_or(digits) {
            return Err(wrong());
        }
        let fraction = fraction.unwrap_or_default();
        let digits = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
        Ok(Self { digits, places: fraction.len().try_into().map_err(|_| wrong())? })
    }

    fn times(self, factor: u64) -> Option<Self> {
        Some(Self { digits: self.digits.checked_mul(factor.into())?, places: self.places })
    }

    fn plus(self, other: Self) -> Option<Self> {
        let places = self.places.max(other.places);
        let widened = |number: Self| number.digits.checked_mul(10u128.checked_pow(places - number.places)?);
        Some(Self { digits: widened(self)?.checked_add(widened(other)?)?, places })
    }
}

impl fmt::Display for Decimal {
    /// All places that matter, and two at least, as amounts of money are written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places as usize;
        let digits = format!("{:0>width$}", self.digits, width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        write!(f, "{whole}.{:0<2}", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(prompt: &str, completion: &str) -> Price {
        let list =
            ModelPrice { prompt: prompt.to_owned(), completion: completion.to_owned(), currency: "USD".to_owned() };
        Price::parse(&list).unwrap()
    }

    #[test]
    fn costs_are_exact() {
        assert_eq!(price("2.50", "10").of(1320, 900).unwrap(), "0.0123 USD");
        assert_eq!(price("0.15", "0.60").of(1, 1).unwrap(), "0.00000075 USD");
        assert_eq!(price("3", "15").of(1_000_000, 2_000_000).unwrap(), "33.00 USD");
        assert_eq!(price("0.1", "0.2").of(3_000_000, 0).unwrap(), "0.30 USD");
        assert_eq!(price("0", "0").of(5, 5).unwrap(), "0.00 USD");
        assert_eq!(price("1", "1.5").of(0, 1_000_000).unwrap(), "1.50 USD");
    }

    #[test]
    fn tokens_that_nobody_could_count_have_no_cost() {
        assert_eq!(price("999999999999.999999999999", "1").of(u64::MAX, u64::MAX), None);
    }

    proptest! {
        #[test]
        fn the_cost_is_that_of_whole_number_arithmetic(
            prompt in 0u64..10_000_000, completion in 0u64..10_000_000,
            sent in 0u64..10_000_000, received in 0u64..10_000_000,
        ) {
            let written = |micro: u64| format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
            let cost = price(&written(prompt), &written(completion)).of(sent, received).unwrap();
            let (whole, fraction) = cost.trim_end_matches(" USD").split_once('.').unwrap();
            let pico: u128 = format!("{whole}{fraction:0<12}").parse().unwrap();
            prop_assert_eq!(pico, u128::from(prompt) * u128::from(sent) + u128::from(completion) * u128::from(received));
        }
    }
}
