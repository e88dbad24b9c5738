//! Every row of the table, and what is refused.
