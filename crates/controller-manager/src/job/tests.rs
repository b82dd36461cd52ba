//! The judgement and the counts, by tables.
