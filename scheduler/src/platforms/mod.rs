//! What the scheduler speaks to over HTTP: the Meta bot, the Graph API and Google's OAuth, and what
//! an answer of theirs means. Stores nothing.

pub mod bot;
pub mod google;
pub mod graph;
pub mod verdict;
