// SPDX-License-Identifier: Apache-2.0
// Kills a process in the middle of saving, again and again.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include <gtest/gtest.h>

namespace peft_test {

/// Runs `save(0)`, `save(1)`, `save(0)`, ... in a child that is killed after a
/// random time of up to 30 ms, then `check()` here; 30 times.
template <class Save, class Check>
void kill_while_saving(Save save, Check check) {
  std::mt19937 random(0);
  for (int round = 0; round < 30; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        for (int i = 0;; i = 1 - i) {
          save(i);
        }
      } catch (...) {
        ::_exit(1);
      }
    }
    ::usleep(static_cast<useconds_t>(random() % 30'000));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "saving failed in the child";
    check();
  }
}

}  // namespace peft_test
