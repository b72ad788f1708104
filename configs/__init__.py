"""One file per benchmark row; `common` holds what they share."""
