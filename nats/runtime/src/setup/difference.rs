//! What differs between the configuration that a server has and the one that the contract wants,
//! and whether bringing a field up is safe. Changes nothing.

use super::report::Change;

/// The fields that differ.
#[derive(Default)]
pub struct Difference {
    /// Fields that can be brought up without losing messages or state.
    safe: Vec<&'static str>,
    /// Fields that a person must decide on.
    manual: Vec<&'static str>,
}

impl Difference {
    /// A field whose change never loses anything.
    pub fn safe<T: PartialEq>(&mut self, field: &'static str, have: &T, want: &T) {
        self.when(true, field, have, want);
    }

    /// A field that only a person may change.
    pub fn manual<T: PartialEq>(&mut self, field: &'static str, have: &T, want: &T) {
        self.when(false, field, have, want);
    }

    /// A limit, where 0 or less means none. Raising or lifting it is safe.
    pub fn widening(&mut self, field: &'static str, have: i64, want: i64) {
        let (have, want) = (have.max(0), want.max(0));
        self.when(want == 0 || (have > 0 && want >= have), field, &have, &want);
    }

    /// A value that may grow.
    pub fn growing<T: PartialOrd>(&mut self, field: &'static str, have: &T, want: &T) {
        self.when(want > have, field, have, want);
    }

    /// A switch that may be turned on.
    pub fn switch(&mut self, field: &'static str, have: bool, want: bool) {
        self.when(want, field, &have, &want);
    }

    /// A field that may be changed under a condition.
    pub fn when<T: PartialEq>(&mut self, is_safe: bool, field: &'static str, have: &T, want: &T) {
        if have != want {
            let fields = if is_safe {
                &mut self.safe
            } else {
                &mut self.manual
            };
            fields.push(field);
        }
    }

    /// Safe fields are brought up only where no other field differs. Because an update sends the
    /// whole configuration, it would change the other ones too.
    pub fn change(self) -> Change {
        match (self.safe.is_empty(), self.manual.is_empty()) {
            (true, true) => Change::Unchanged,
            (false, true) => Change::Updated(self.safe),
            (_, false) => Change::Drift(self.manual.into_iter().chain(self.safe).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(of: impl FnOnce(&mut Difference)) -> Change {
        let mut difference = Difference::default();
        of(&mut difference);
        difference.change()
    }

    #[test]
    fn a_limit_is_brought_up_where_it_widens_and_left_where_it_narrows() {
        for (have, want, expected) in [
            (5, 5, Change::Unchanged),
            (-1, 0, Change::Unchanged),
            (5, 6, Change::Updated(vec!["x"])),
            (5, 0, Change::Updated(vec!["x"])),
            (6, 5, Change::Drift(vec!["x"])),
            (0, 5, Change::Drift(vec!["x"])),
        ] {
            let found = change(|d| d.widening("x", have, want));
            assert_eq!(found, expected, "{have} to {want}");
        }
    }

    #[test]
    fn nothing_is_brought_up_beside_a_field_that_a_person_must_decide_on() {
        let both = change(|d| {
            d.safe("description", &"old", &"new");
            d.manual("storage", &"memory", &"file");
        });
        assert_eq!(both, Change::Drift(vec!["storage", "description"]));
    }

    #[test]
    fn values_grow_and_switches_are_turned_on_by_themselves() {
        assert_eq!(
            change(|d| d.growing("x", &1, &3)),
            Change::Updated(vec!["x"])
        );
        assert_eq!(change(|d| d.growing("x", &3, &1)), Change::Drift(vec!["x"]));
        assert_eq!(
            change(|d| d.switch("x", false, true)),
            Change::Updated(vec!["x"])
        );
        assert_eq!(
            change(|d| d.switch("x", true, false)),
            Change::Drift(vec!["x"])
        );
    }
}
