//! Dead letters from end to end: each reason, the replay after a fix, once and in order, and who
//! sees which dead letters.

mod cli;
mod exactly_once;
mod replay_after_fix;
mod replay_order;
mod tenancy;
