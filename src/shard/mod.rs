//! What one core owns: the log and the head of a part of the series.

pub mod message;
