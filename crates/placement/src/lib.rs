//! temp
use holdfast_types::*;
pub struct Layout { pub cluster: ClusterId, pub generation: u32, pub nodes: Vec<NodeSpec>, pub pools: Vec<Pool> }
pub struct NodeSpec { pub url: String }
pub struct Pool { pub weight: u64, pub sets: Vec<SetLayout> }
pub struct SetLayout { pub index: SetIndex, pub epoch: SetEpoch, pub drives: Vec<DriveSlot> }
pub struct DriveSlot { pub drive: DriveId, pub node: NodeIndex, pub path: String }
impl Layout {
  pub fn sets(&self) -> impl Iterator<Item=&SetLayout> { self.pools.iter().flat_map(|p| &p.sets) }
  pub fn first_set(&self) -> &SetLayout { self.sets().next().unwrap() }
  pub fn set_of(&self, key: &RegisterKey) -> Result<&SetLayout, codec::CodecError> { key.placing_name()?; Ok(self.first_set()) }
  pub fn order(&self, set: &SetLayout, key: &RegisterKey) -> Result<Vec<usize>, codec::CodecError> {
    let name = key.placing_name()?; let n = set.drives.len();
    let by = name.iter().map(|b| *b as usize).sum::<usize>() % n;
    Ok((0..n).map(|i| (i + by) % n).collect()) }
}
