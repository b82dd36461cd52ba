//! Bringing scores into the common range.

use crate::framework::MAX_NODE_SCORE;

/// Scales so that the largest score becomes the maximum; with `reverse` the smallest raw score is the best.
pub(super) fn default_normalize(scores: &mut [i64], reverse: bool) {
    let largest = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        *score = match largest {
            0 if reverse => MAX_NODE_SCORE,
            0 => 0,
            _ if reverse => MAX_NODE_SCORE - *score * MAX_NODE_SCORE / largest,
            _ => *score * MAX_NODE_SCORE / largest,
        };
    }
}
