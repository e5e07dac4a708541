use crate::api::RiskLevel;

/// How many people must approve a plan of that risk when no policy says otherwise: none for `low`, one for `medium` and
/// `high`, two for `critical`.
#[must_use]
pub const fn approvals_required(risk: RiskLevel) -> u32 {
    match risk {
        RiskLevel::Low => 0,
        RiskLevel::Medium | RiskLevel::High => 1,
        RiskLevel::Critical => 2,
    }
}
