use crate::test::report::Report;
pub fn test(_report: &mut Report) {}
