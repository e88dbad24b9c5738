//! The listener against bad bytes, slow peers, panics, and against hyper.

mod bad;
mod hyper;
mod life;
mod random;
mod table;
mod twin;
