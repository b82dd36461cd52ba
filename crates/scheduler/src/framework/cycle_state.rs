//! What plugins remember between the extension points of one cycle.

use std::any::Any;

trait Data: Any + Send + Sync {
    fn clone_box(&self) -> Box<dyn Data>;
}

impl<T: Any + Clone + Send + Sync> Data for T {
    fn clone_box(&self) -> Box<dyn Data> {
        Box::new(self.clone())
    }
}

/// One value per type; plugins use a private type each.
#[derive(Default)]
pub(crate) struct CycleState {
    data: Vec<Box<dyn Data>>,
    /// Bits by the index of the plugin among the filter and score plugins: nothing to do for this pod.
    pub(crate) skip_filter: u64,
    pub(crate) skip_score: u64,
}

impl Clone for CycleState {
    fn clone(&self) -> Self {
        Self {
            data: self.data.iter().map(|data| (**data).clone_box()).collect(),
            skip_filter: self.skip_filter,
            skip_score: self.skip_score,
        }
    }
}

impl CycleState {
    /// Remembers `value` in place of an earlier one of its type.
    pub(crate) fn write<T: Any + Clone + Send + Sync>(&mut self, value: T) {
        match self.get_mut::<T>() {
            Some(known) => *known = value,
            None => self.data.push(Box::new(value)),
        }
    }

    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.data
            .iter()
            .find_map(|data| (&**data as &dyn Any).downcast_ref())
    }

    pub(crate) fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.data
            .iter_mut()
            .find_map(|data| (&mut **data as &mut dyn Any).downcast_mut())
    }
}
