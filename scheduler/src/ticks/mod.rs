//! From the server's clock to a recorded run: the schedules, the ticks that the server makes from
//! them, and the decision whether a tick leads to a run. Knows no job in particular.

pub mod consume;
pub mod runs;
pub mod schedule;
