// Names of threads, as `ps -T` and debuggers show them: given only with `-name debug-threads=on`.
#pragma once

#include <string>

namespace vmm {

void set_thread_names(bool on);                  // before threads are made
void name_this_thread(const std::string& name);  // at most 15 characters are shown

}  // namespace vmm
