//! Who is in the ring: membership document and its agreement.
