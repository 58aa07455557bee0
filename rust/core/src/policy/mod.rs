//! Whether, when and what: the decision on each recipient of a chunk, with its reason.
//!
//! [`note`] compiles a send, [`decide`] judges a chunk of its recipients; [`quiet`], [`caps`] and [`locale`] are the
//! rules by themselves, [`zones`] finds time zones; [`witness`] is told why.

pub mod caps;
pub mod decide;
pub mod locale;
pub mod note;
pub mod quiet;
pub mod witness;
pub mod zones;
