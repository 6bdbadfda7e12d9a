//! From the server's clock to a recorded run: the schedules, the ticks they make, and what a tick
//! means. Does no job's work.

pub mod runs;
pub mod schedule;
pub mod tick;
