//! Dead letters from end to end: each reason, the replay after a fix, once and in order; who sees
//! which.

mod cli;
mod exactly_once;
mod replay_after_fix;
mod replay_order;
mod tenancy;
