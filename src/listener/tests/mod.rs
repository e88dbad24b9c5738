//! The listener against bad bytes, slow peers, panics, and against hyper.

mod bad;
mod counts;
mod hyper;
mod life;
mod random;
mod table;
mod twin;
