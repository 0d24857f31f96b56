// The job behind blockdev-mirror, drive-mirror and the commit of an active image: keeps a copy of a node in step with it until it may take
// the node's place.
#pragma once

#include "block/job/job.h"

namespace vmm::block {

struct MirrorPlan {
  NodeRef source, target;
  enum class Sync : u8 { full, top, none } sync = Sync::full;
  NodeRef base;      // sync top: what lies in or below it is not copied; null: what lies below the source
  NodeRef replaces;  // what the target takes the place of; null: the source
  u64 granularity = 64 * KiB;
  bool commits = false;    // into the source's own chain: the target is written while the source stands on it
  bool zero_first = true;  // the target's contents are not known
};
std::shared_ptr<Job> make_mirror(JobType type, JobOptions options, MirrorPlan plan);

}  // namespace vmm::block

namespace vmm {
using MirrorSync = block::MirrorPlan::Sync;
template <>
inline constexpr std::array enum_names<MirrorSync> = {EnumNameOf<MirrorSync>{MirrorSync::top, "top"},
                                                      EnumNameOf<MirrorSync>{MirrorSync::full, "full"},
                                                      EnumNameOf<MirrorSync>{MirrorSync::none, "none"}};
}  // namespace vmm
