//! Services from a watched file.
