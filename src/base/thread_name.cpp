#include "src/base/thread_name.h"

#include <pthread.h>

#include <atomic>

namespace vmm {

namespace {
std::atomic<bool> names{false};
}

void set_thread_names(bool on) { names = on; }
void name_this_thread(const std::string& name) {
  if (names) pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

}  // namespace vmm
