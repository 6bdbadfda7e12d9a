//! The deployment's promises on a cluster: three nats-servers, every stream with three copies, two
//! replicas of each service, and faults of servers and of the links between them. Slow.

mod database;
mod delivery;
mod publishing;
mod servers;
mod sockets;
