//! The services outside that the scheduler calls over HTTP: the Meta bot, the Graph API and
//! Google's OAuth. Also decides what their answers mean. Stores nothing.

pub mod bot;
pub mod google;
pub mod graph;
pub mod verdict;
