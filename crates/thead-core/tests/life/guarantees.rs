use crate::world::World;
