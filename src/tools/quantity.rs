//! Quantities of CPU and memory by the Kubernetes grammar (`k8s.io/apimachinery/pkg/api/resource`).

use super::ToolError;

/// An amount of CPU or memory, exact to a billionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity {
    billionths: i128,
}

const BILLION: i128 = 1_000_000_000;
/// What the API server can hold: 2⁶³−1 units.
const MAXIMUM: i128 = i64::MAX as i128 * BILLION;

impl Quantity {
    /// Reads a quantity such as `250m`, `1.5`, `512Mi` or `2e3`; finer than a billionth is rounded up, as the API server
    /// does. `None` when it is none, negative, or more than the API server can hold.
    pub fn parse(text: &str) -> Option<Self> {
        let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        // Only a leading plus sign is part of a number that may be meant here.
        let (number, suffix) = match text.strip_prefix('+') {
            Some(unsigned) => return if unsigned.starts_with('+') { None } else { Self::parse(unsigned) },
            None => text.split_at(number_end),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (multiplier, divisor) = scale(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let below = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(divisor)?;
        let above = digits.checked_mul(multiplier)?.checked_mul(BILLION)?;
        let billionths = above / below + i128::from(above % below != 0);
        (billionths <= MAXIMUM).then_some(Self { billionths })
    }

    fn is_whole(self) -> bool {
        self.billionths % BILLION == 0
    }
}

/// Multiplier and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 1));
    let decimal = |power: i32| {
        let factor = 10_i128.checked_pow(power.unsigned_abs())?;
        Some(if power < 0 { (1, factor) } else { (factor, 1) })
    };
    match suffix {
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?;
            let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            decimal(power.parse().ok()?)
        }
    }
}

/// Checks that `text` is an amount of CPU.
///
/// # Errors
/// [`ToolError::Invalid`] that names the parameter and what would be right.
pub(super) fn cpu(parameter: &str, text: &str) -> Result<Quantity, ToolError> {
    Quantity::parse(text).ok_or_else(|| {
        ToolError::invalid(format!(
            "{parameter} must be an amount of CPU such as 250m (a quarter of a core) or 1.5, got '{text}'"
        ))
    })
}

/// Checks that `text` is an amount of memory.
///
/// # Errors
/// [`ToolError::Invalid`] that names the parameter and what would be right.
pub(super) fn memory(parameter: &str, text: &str) -> Result<Quantity, ToolError> {
    let wanted = |hint: &str| {
        ToolError::invalid(format!("{parameter} must be an amount of memory such as 256Mi or 1Gi, got '{text}'{hint}"))
    };
    let quantity = Quantity::parse(text).ok_or_else(|| {
        let shorter = text.trim_end_matches(['B', 'b']).replace(' ', "");
        if shorter != text && Quantity::parse(&shorter).is_some() {
            wanted(&format!("; write '{shorter}'"))
        } else {
            wanted("")
        }
    })?;
    if !quantity.is_whole() {
        let mebibytes = text.strip_suffix('m').map(|number| format!("; '{number}Mi' are mebibytes, m is a thousandth"));
        return Err(wanted(&mebibytes.unwrap_or_else(|| ", which is not a whole number of bytes".to_owned())));
    }
    Ok(quantity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_compared_across_suffixes() {
        let of = |text: &str| Quantity::parse(text).unwrap();
        for (a, b) in [
            ("100m", "0.1"),
            ("300m", "0.3"),
            ("1Ki", "1024"),
            ("1.5Gi", "1536Mi"),
            ("2e3", "2k"),
            ("1E", "1e18"),
            ("5e-1", ".5"),
            ("1.", "1"),
            ("+1", "1"),
            ("1000000u", "1"),
        ] {
            assert_eq!(of(a), of(b), "{a} and {b}");
        }
        assert!(of("1G") < of("1Gi"));
        assert!(of("0.0000000001") > of("0"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in
            ["", ".", "1.2.3", "-1", "++1", "1KB", "1 Gi", "1kk", "m", "1e", "1e+", "1e1.5", "9e30", "1e-99", "ten"]
        {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn errors_name_the_parameter_and_what_would_be_right() {
        insta::assert_snapshot!(cpu("cpuLimit", "two").unwrap_err(),
            @"cpuLimit must be an amount of CPU such as 250m (a quarter of a core) or 1.5, got 'two'");
        insta::assert_snapshot!(memory("memoryLimit", "512MB").unwrap_err(),
            @"memoryLimit must be an amount of memory such as 256Mi or 1Gi, got '512MB'; write '512M'");
        insta::assert_snapshot!(memory("memoryLimit", "512m").unwrap_err(),
            @"memoryLimit must be an amount of memory such as 256Mi or 1Gi, got '512m'; '512Mi' are mebibytes, m is a thousandth");
        assert!(memory("memoryLimit", "1000m").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[+.0-9eEkmMKGinu-]{0,45}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn order_follows_the_number(a in 0u32.., b in 0u32.., suffix in "(m|k|Mi|Gi|)") {
            let of = |number: u32| Quantity::parse(&format!("{number}{suffix}")).unwrap();
            prop_assert_eq!(of(a).cmp(&of(b)), a.cmp(&b));
        }
    }
}
