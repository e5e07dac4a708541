//! `kubectl approve-plan`.

mod screens;
