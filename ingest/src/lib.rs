//! From an accepted batch to an uploaded block: WAL, head, cut, ship.
